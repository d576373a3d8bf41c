//! A round trip between a client and a local server: a new connection waits one, every byte half of one in each
//! direction. A connection may also be limited to a number of bytes in a second, in each direction.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Passes on what comes to this listener, until the process ends. `rate` is the most bytes of a connection in a second.
pub fn relay(listener: &TcpListener, target: &str, round_trip: Duration, rate: Option<f64>) {
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
                pump(from, to, round_trip / 2, rate);
            }
        });
    }
}

/// Copies bytes, each so much later than it came, until the end of the connection.
fn pump(mut from: TcpStream, mut to: TcpStream, delay: Duration, rate: Option<f64>) {
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
        let mut sent = Instant::now();
        for (due, chunk) in chunks {
            // A slow line sends a chunk when the one before it is through, and passes it on with its last byte.
            let takes = rate.map_or(0.0, |rate| chunk.len() as f64 / rate);
            sent = sent.max(due) + Duration::from_secs_f64(takes);
            thread::sleep(sent.saturating_duration_since(Instant::now()));
            if to.write_all(&chunk).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}
