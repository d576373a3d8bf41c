//! The network between service and registry, which can be made to break.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;

use socket2::SockRef;

use crate::client::SMALL_BUFFER;
use crate::dice::Dice;
use crate::report::Counter;

/// Where in a connection a byte is changed.
const WRONG_BYTE: u64 = 20_000;

pub struct Relay {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    registry: String,
    dice: Mutex<Dice>,
    is_cutting: AtomicBool,
    cuts: Counter,
    open: Mutex<Vec<Arc<Pair>>>,
    /// For who wants to see the soak test fail.
    is_damaging: AtomicBool,
}

/// A connection, both halves of it.
struct Pair {
    client: TcpStream,
    server: TcpStream,
    is_cut: AtomicBool,
}

impl Pair {
    /// True the first time. `rudely` is a reset, else the bytes end as if they were all.
    fn cut(&self, rudely: bool) -> bool {
        if rudely {
            let _ = SockRef::from(&self.client).set_linger(Some(std::time::Duration::ZERO));
        }
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
        !self.is_cut.swap(true, SeqCst)
    }
}

impl Relay {
    pub fn new(registry: &str, dice: Dice) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            registry: registry.to_owned(),
            dice: Mutex::new(dice),
            is_cutting: AtomicBool::new(false),
            cuts: Counter::default(),
            open: Mutex::default(),
            is_damaging: AtomicBool::new(false),
        });
        let own = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let own = own.clone();
                thread::spawn(move || own.connect(client));
            }
        });
        Relay { address, shared }
    }

    /// While this is on, every new connection is cut after some of its bytes.
    pub fn set_cutting(&self, is_cutting: bool) {
        self.shared.is_cutting.store(is_cutting, SeqCst);
    }

    /// While this is on, a byte of every new connection is changed.
    pub fn set_damaging(&self, is_damaging: bool) {
        self.shared.is_damaging.store(is_damaging, SeqCst);
    }

    /// Cuts all connections that there are.
    pub fn cut_all(&self, rudely: bool) {
        for pair in self.shared.open.lock().unwrap().iter() {
            if pair.cut(rudely) {
                self.shared.cuts.up();
            }
        }
    }

    pub fn cuts(&self) -> u64 {
        self.shared.cuts.get()
    }
}

impl Shared {
    fn connect(&self, client: TcpStream) {
        // Without a registry the connection ends at once.
        let Ok(server) = TcpStream::connect(&self.registry) else {
            return;
        };
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        // Bytes in the kernel's buffers arrive even if the registry is gone.
        let _ = SockRef::from(&client).set_send_buffer_size(SMALL_BUFFER);
        let _ = SockRef::from(&server).set_recv_buffer_size(SMALL_BUFFER);
        let (limit, rudely) = {
            let mut dice = self.dice.lock().unwrap();
            // Anything from within the head to the middle of the largest file.
            let limit = dice.from(0..1 << 25) >> dice.from(0..20);
            (limit, dice.percent(50))
        };
        let limit = self.is_cutting.load(SeqCst).then_some(limit);
        let damages = self.is_damaging.load(SeqCst);
        let pair = Arc::new(Pair {
            client,
            server,
            is_cut: AtomicBool::new(false),
        });
        self.open.lock().unwrap().push(pair.clone());
        thread::scope(|scope| {
            scope.spawn(|| {
                pump(&pair.client, &pair.server, None, false);
            });
            if pump(&pair.server, &pair.client, limit, damages) && pair.cut(rudely) {
                self.cuts.up();
            }
        });
        self.open
            .lock()
            .unwrap()
            .retain(|other| !Arc::ptr_eq(other, &pair));
    }
}

/// Copies bytes until the end of the connection, or until there were so many; then it is true.
fn pump(mut from: &TcpStream, mut to: &TcpStream, limit: Option<u64>, damages: bool) -> bool {
    let mut buffer = vec![0; 128 << 10];
    let mut passed = 0;
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let mut bytes = &mut buffer[..count];
        let is_last = limit.is_some_and(|limit| passed + count as u64 >= limit);
        if let Some(limit) = limit.filter(|_| is_last) {
            bytes = &mut bytes[..usize::try_from(limit - passed).unwrap()];
        }
        if damages && (passed..passed + bytes.len() as u64).contains(&WRONG_BYTE) {
            bytes[usize::try_from(WRONG_BYTE - passed).unwrap()] ^= 1;
        }
        if to.write_all(bytes).is_err() {
            break;
        }
        if is_last {
            return true;
        }
        passed += count as u64;
    }
    let _ = to.shutdown(Shutdown::Write);
    // Whoever still sends in the other direction has nobody to send to.
    let _ = from.shutdown(Shutdown::Read);
    false
}
