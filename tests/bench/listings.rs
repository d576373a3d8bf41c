//! How long listings take, beside a client that sends only the requests needed, in the same run.
//!
//! `listings PROGRAM RUNS` prints rows: name, unit, value, the same of the other, ratio, and the highest ratio that is
//! allowed, with tabs between them. The registry is that of the integration tests; a relay stands before it.
//!
//! * cold: an empty cache and a new process;
//! * warm: a full cache and a new process, which asks for the digest of each tag;
//! * settled: the same process again after the listing's time, which asks for the same;
//! * immutable-tags: the same, with tags that do not move. Only the list of tags is asked for.

#![allow(
    clippy::unwrap_used,
    reason = "a tool for benchmarks ends where something is wrong"
)]

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use shared::content::Repository;
use shared::registry::Registry;
use shared::{client, content, request, rounds, tls};

mod bare;
mod relay;
#[path = "../tools/shared.rs"]
mod shared;

/// Tags and milliseconds of a round trip.
const CASES: [(usize, u64); 10] = [
    (100, 0),
    (300, 0),
    (1000, 0),
    (5000, 0),
    (100, 20),
    (300, 20),
    (1000, 20),
    (100, 100),
    (300, 100),
    (1000, 100),
];
/// The case whose ratio has a limit, and that.
const LIMITED: (usize, u64) = (1000, 20);
const MOST: f64 = 1.1;
/// The bare client comes so close to what the round trips take by themselves.
const BARE: f64 = 0.95;
/// The case that other programs are compared in.
const OTHERS: (usize, u64) = (100, 20);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [program, runs] = &arguments[..] else {
        panic!("usage: see the head of tests/bench/listings.rs");
    };
    let only = std::env::var("CASE").ok();
    let folder =
        std::env::temp_dir().join(format!("sysext-oci-proxy-bench-{}", std::process::id()));
    for (tags, milliseconds) in CASES {
        let name = format!("{tags} tags at {milliseconds} ms");
        if only.as_ref().is_none_or(|only| *only == name) {
            let folder = folder.join(format!("{tags}-{milliseconds}"));
            let case = Case::new(program, tags, milliseconds, name, &folder);
            case.measure(runs.parse().unwrap());
            if (tags, milliseconds) == OTHERS {
                case.others();
            }
        }
    }
    // Not before: the disk would be busy with it while the next listing is measured.
    let _ = fs::remove_dir_all(&folder);
}

/// A registry with so many tags, so far away.
struct Case {
    program: String,
    tags: usize,
    round_trip: Duration,
    name: String,
    registry: Registry,
    relay: String,
    folder: String,
}

/// The measurements of a listing.
#[derive(Default)]
struct Taken {
    seconds: Vec<f64>,
    requests: usize,
    connections: usize,
}

impl Taken {
    fn median(&self) -> f64 {
        let mut seconds = self.seconds.clone();
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    }
}

impl Case {
    fn new(program: &str, tags: usize, milliseconds: u64, name: String, folder: &Path) -> Self {
        let mut hello = Repository::default();
        for number in 0..tags {
            let tag = format!("v1.{}.{}-x86-64", number / 100, number % 100);
            let bytes = format!("hello {tag}").repeat(200);
            hello.oras_push(&tag, "hello.raw", bytes.as_bytes());
        }
        let registry = Registry::with_hello(hello);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = listener.local_addr().unwrap().to_string();
        let (target, round_trip) = (
            registry.address.to_string(),
            Duration::from_millis(milliseconds),
        );
        thread::spawn(move || relay::relay(&listener, &target, round_trip, None));
        fs::create_dir_all(folder).unwrap();
        let folder = folder.to_str().unwrap().to_owned();
        let anew = format!("registry = \"{relay}\"\nlisting-ttl-sec = 0.01\n");
        fs::write(format!("{folder}/plain.toml"), &anew).unwrap();
        let immutable = anew + "[repository.hello]\nimmutable-tags = true\n";
        fs::write(format!("{folder}/immutable.toml"), immutable).unwrap();
        Self {
            program: program.to_owned(),
            tags,
            round_trip,
            name,
            registry,
            relay,
            folder,
        }
    }

    /// Measures this work, which lists as many files as there are tags.
    fn time(&self, taken: &mut Taken, work: impl FnOnce() -> usize) {
        self.registry.take_heads();
        let connections = self.registry.connections();
        let begun = Instant::now();
        assert_eq!(work(), self.tags, "{}", self.name);
        taken.seconds.push(begun.elapsed().as_secs_f64());
        taken.requests = self.registry.take_heads().len();
        taken.connections = self.registry.connections() - connections;
    }

    fn measure(&self, runs: usize) {
        let [mut cold, mut warm, mut settled, mut fixed] =
            std::array::from_fn(|_| Taken::default());
        let [mut bare_cold, mut bare_warm] = std::array::from_fn(|_| Taken::default());
        for run in 0..runs {
            let empty = format!("plain-{run}");
            let service = self.start("plain", &empty);
            self.time(&mut cold, || service.list());
            self.time(&mut bare_cold, || bare::list(&self.relay, "hello", "GET"));
            drop(service);
            let service = self.start("plain", &empty);
            self.time(&mut warm, || service.list());
            self.time(&mut bare_warm, || bare::list(&self.relay, "hello", "HEAD"));
            self.time(&mut settled, || service.list());
            drop(service);
            let service = self.start("immutable", "immutable");
            service.list();
            thread::sleep(Duration::from_millis(20));
            self.time(&mut fixed, || service.list());
        }
        let round_trips = (2 + self.tags.div_ceil(bare::CONNECTIONS)) as f64;
        let least = round_trips * self.round_trip.as_secs_f64();
        let is_limited = self.name == format!("{} tags at {} ms", LIMITED.0, LIMITED.1);
        let limit = |most: f64| {
            if is_limited {
                format!("{most}")
            } else {
                String::new()
            }
        };
        for (step, taken, bare, most) in [
            ("cold", &cold, &bare_cold, limit(MOST)),
            ("warm", &warm, &bare_warm, limit(MOST)),
            ("settled", &settled, &bare_warm, String::new()),
            ("settled, immutable-tags", &fixed, &bare_warm, String::new()),
        ] {
            let name = format!("listing of {}, {step}", self.name);
            let (ours, theirs) = (taken.median(), bare.median());
            println!(
                "{name}\ts\t{ours:.3}\t{theirs:.3}\t{:.2}\t{most}",
                ours / theirs
            );
            println!(
                "{name}: requests\t\t{}\t{}\t\t",
                taken.requests, bare.requests
            );
            println!(
                "{name}: connections\t\t{}\t{}\t\t",
                taken.connections, bare.connections
            );
            if !self.round_trip.is_zero() {
                let trips = |seconds: f64| seconds / self.round_trip.as_secs_f64();
                println!(
                    "{name}: round trips\t\t{:.1}\t{:.1}\t\t",
                    trips(ours),
                    trips(theirs)
                );
            }
        }
        if least > 0.0 {
            let theirs = bare_warm.median();
            let name = format!("bare client, {}: beside its round trips alone", self.name);
            println!(
                "{name}\ts\t{theirs:.3}\t{least:.3}\t{:.2}\t{}",
                theirs / least,
                limit(1.0 / BARE)
            );
        }
    }

    /// Starts the program with these settings, and a cache and a state in this place.
    fn start(&self, settings: &str, place: &str) -> Service {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let place = Path::new(&self.folder).join(place);
        fs::create_dir_all(place.join("cache")).unwrap();
        let child = Command::new(&self.program)
            .args(["--config", &format!("{}/{settings}.toml", self.folder)])
            .args(["serve", "--listen", &address])
            .env("CACHE_DIRECTORY", place.join("cache"))
            .env("STATE_DIRECTORY", place.join("state"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while TcpStream::connect(&address).is_err() {
            thread::sleep(Duration::from_millis(5));
        }
        Service { child, address }
    }

    /// The same by other programs, where they are installed: the tags, and then each by itself, once.
    fn others(&self) {
        let flag = "--tls-verify=false";
        let skopeo: [(&str, &[&str]); 2] = [("list-tags", &[flag]), ("inspect", &[flag, "--raw"])];
        let crane: [(&str, &[&str]); 2] = [("ls", &["--insecure"]), ("digest", &["--insecure"])];
        for (program, scheme, [list, one]) in
            [("skopeo", "docker://", skopeo), ("crane", "", crane)]
        {
            let name = format!("listing of {} by {program}", self.name);
            let call = |(command, options): (&str, &[&str]), end: &str| {
                let place = format!("{scheme}{}/hello{end}", self.relay);
                let output = Command::new(program)
                    .arg(command)
                    .args(options)
                    .arg(place)
                    .output();
                output.ok().filter(|output| output.status.success())
            };
            let begun = Instant::now();
            let is_there = call(list, "").is_some();
            let all = (0..self.tags).take_while(|n| {
                is_there && call(one, &format!(":v1.{}.{}-x86-64", n / 100, n % 100)).is_some()
            });
            match all.count() == self.tags {
                true => println!("{name}\ts\t{:.3}\t\t\t", begun.elapsed().as_secs_f64()),
                false => println!("{name}\t\tnot here\t\t\t"),
            }
        }
    }
}

struct Service {
    child: Child,
    address: String,
}

impl Service {
    /// Lists the files, and returns their number.
    fn list(&self) -> usize {
        let mut connection = client::Connection::open(self.address.parse().unwrap());
        let request =
            b"GET /hello/SHA256SUMS HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        connection.send(request).unwrap();
        let response = connection.receive("GET").unwrap();
        String::from_utf8(response.body).unwrap().lines().count()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
