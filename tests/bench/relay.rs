//! A round trip between a client and a local server: a new connection waits one, every byte half of one in each
//! direction. How many bytes pass is not limited.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Passes on what comes to this listener, until the process ends.
pub fn relay(listener: &TcpListener, target: &str, round_trip: Duration) {
    for client in listener.incoming().flatten() {
        let target = target.to_owned();
        thread::spawn(move || {
            // The handshake, which loopback has for nothing.
            thread::sleep(round_trip);
            let Ok(server) = TcpStream::connect(target) else {
                return;
            };
            for (from, to) in [(&client, &server), (&server, &client)] {
                from.set_nodelay(true).unwrap();
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                pump(from, to, round_trip / 2);
            }
        });
    }
}

/// Copies bytes, each so much later than it came, until the end of the connection.
fn pump(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let (sender, chunks) = mpsc::sync_channel::<(Instant, Vec<u8>)>(1024);
    thread::spawn(move || {
        let mut buffer = vec![0; 256 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if sender
                .send((Instant::now() + delay, buffer[..count].to_vec()))
                .is_err()
            {
                return;
            }
        }
    });
    thread::spawn(move || {
        for (due, chunk) in chunks {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&chunk).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}
