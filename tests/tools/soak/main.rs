//! The soak test: see `tests/soak`, which starts it.
//!
//! * `soak faults PROGRAM DIRECTORY`: ten clients while all goes wrong that can.
//! * `soak kills PROGRAM DIRECTORY`: the service is killed again and again.
//! * `soak idle PROGRAM DIRECTORY`: clients come at the moment when the service leaves.
//!
//! It prints what it did and counted, and a line for each defect; then the exit status is 1.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where it cannot do what it wants to"
)]

mod cache;
mod client;
#[path = "../../it/content.rs"]
#[allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "shared with the integration tests, which use the rest"
)]
mod content;
mod dice;
mod faults;
mod registry;
mod relay;
mod report;
mod stock;
mod systemd;
mod watch;
mod world;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use cache::{CacheDirectory, Full};
use client::{End, Http};
use content::Repository;
use dice::Dice;
use faults::Faults;
use report::{Counter, Fault, row};
use systemd::{Start, Systemd};
use watch::Sample;
use world::{CACHE_SIZE_MIB, Options, PARALLEL, World};

const CLIENTS: u64 = 10;
/// Of a hundred downloads, how many are of files that have to be made.
const MADE: u64 = 30;
/// The same where the service is killed: there the making is what matters.
const MADE_IN_KILLS: u64 = 70;
/// Most growth of the service's memory between the first quarter of the time and the last. The allocator's
/// arenas fill up in the first thousand requests, and then no more.
const GROWTH_KIB: u64 = 6 << 10;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, program, directory] = &arguments[..] else {
        eprintln!("usage: see the head of tests/tools/soak/main.rs");
        return ExitCode::FAILURE;
    };
    let seed = setting("SOAK_SEED", now_as_seed());
    let directory = PathBuf::from(directory);
    let separate = std::env::var_os("SOAK_CACHE");
    let options = Options {
        program: PathBuf::from(program),
        seed,
        faketime: std::env::var("SOAK_FAKETIME").expect("SOAK_FAKETIME names libfaketime"),
        breaks: std::env::var("SOAK_BREAK").ok(),
        cache: CacheDirectory {
            full: match &separate {
                Some(_) => Full::Filled,
                None => Full::Forbidden,
            },
            path: separate.map_or_else(|| directory.join("cache"), PathBuf::from),
        },
        directory,
    };
    fs::create_dir_all(&options.cache.path).unwrap();
    println!("\n== {mode}, SOAK_SEED={seed}");
    let begun = Instant::now();
    let defects = match mode.as_str() {
        "faults" => soak_faults(options),
        "kills" => soak_kills(options),
        "idle" => soak_idle(options),
        _ => panic!("{mode} is no mode"),
    };
    row("seconds", begun.elapsed().as_secs());
    row("defects", defects);
    ExitCode::from(u8::from(defects > 0))
}

/// A number from the environment.
fn setting<T: FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}

fn now_as_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().as_secs() % 1_000_000
}

fn soak_faults(options: Options) -> usize {
    let rounds: u64 = setting("SOAK_ROUNDS", 200);
    let time = Duration::from_secs(setting("SOAK_SECONDS", 240));
    let (world, mut registry) = World::new(options);
    let faults = Faults::default();

    // The memory after work, at rest.
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let world = &world;
            scope.spawn(move || {
                let mut dice = world.dice(200 + client);
                for _ in 0..5 {
                    world.round(&mut dice, MADE);
                }
            });
        }
    });
    let first = resting(&world, None);

    let (done, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let samples: Mutex<Vec<Sample>> = Mutex::default();
    let begun = Instant::now();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (world, done) = (&world, &done);
                scope.spawn(move || {
                    let mut dice = world.dice(100 + client);
                    for round in 0..rounds {
                        // Spread over the time, so that each round may meet another fault.
                        let due =
                            time.mul_f64((round as f64 + 0.1 * client as f64) / rounds as f64);
                        thread::sleep(due.saturating_sub(begun.elapsed()));
                        // Half as long again is the most that a slow machine gets.
                        if begun.elapsed() > time.mul_f64(1.5) {
                            break;
                        }
                        world.round(&mut dice, MADE);
                        done.fetch_add(1, SeqCst);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let mut dice = world.dice(5);
            while !is_over.load(SeqCst) {
                thread::sleep(dice.milliseconds(3000..5000));
                let may_kill = begun.elapsed() < time / 2;
                faults.happen(&world, &mut registry, &mut dice, may_kill);
            }
        });
        scope.spawn(|| {
            while !is_over.load(SeqCst) {
                if let Some(sample) = world.systemd.pid().and_then(watch::sample) {
                    samples.lock().unwrap().push(sample);
                }
                thread::sleep(Duration::from_millis(200));
            }
        });
        for client in clients {
            client.join().unwrap();
        }
        is_over.store(true, SeqCst);
    });

    let last = resting(&world, Some(first));
    world.get_all_in_quiet();
    let (done, all) = (done.into_inner(), rounds * CLIENTS);
    row(&format!("rounds of {CLIENTS} clients, of {all}"), done);
    if done < all {
        world.report.defect(format!(
            "{done} rounds of {all} in {time:?} and half as much"
        ));
    }
    world.report.print();
    row(
        "archives unpacked and compared, file by file",
        world.unpacked,
    );
    faults.print(&world);
    faults.judge(&world);
    row("starts of the service", world.systemd.starts());
    judge_use(&world, first, last, &samples.into_inner().unwrap());
    world.end()
}

/// The memory of the service after some time without requests, or earlier, once it has been no more than `like`
/// for a moment.
fn resting(world: &World, like: Option<Sample>) -> Sample {
    let mut sample = None;
    // Longer than the service waits for clients to close, shorter than it takes to leave.
    for _ in 0..30 {
        thread::sleep(Duration::from_millis(100));
        sample = world.systemd.pid().and_then(watch::sample);
        if let (Some(sample), Some(like)) = (sample, like)
            && sample.threads <= like.threads
            && sample.descriptors <= like.descriptors
        {
            return sample;
        }
    }
    sample.expect("the service does not run")
}

fn judge_use(world: &World, first: Sample, last: Sample, samples: &[Sample]) {
    row("threads at rest, first", first.threads);
    row("… last", last.threads);
    if last.threads > first.threads {
        let (first, last) = (first.threads, last.threads);
        world
            .report
            .defect(format!("{last} threads at rest, {first} at first"));
    }
    row("descriptors at rest, first", first.descriptors);
    row("… last", last.descriptors);
    // Connections to the registry are kept for the next request.
    if last.descriptors > first.descriptors + PARALLEL {
        let (first, last) = (first.descriptors, last.descriptors);
        world
            .report
            .defect(format!("{last} descriptors at rest, {first} at first"));
    }
    let most = |of: fn(&Sample) -> u64| samples.iter().map(of).max().unwrap_or(0);
    row("threads at most", most(|sample| sample.threads));
    row("descriptors at most", most(|sample| sample.descriptors));
    row("memory at most, KiB", most(|sample| sample.rss_kib));
    let of_last: Vec<_> = samples
        .iter()
        .copied()
        .filter(|sample| sample.pid == last.pid)
        .collect();
    if let Some(means @ [first, _, _, last]) = watch::quarters(&of_last) {
        let seconds = (of_last[of_last.len() - 1].at - of_last[0].at).as_secs();
        row("the last process worked for so many seconds", seconds);
        for (n, mean) in means.iter().enumerate() {
            row(
                &format!("… its memory in quarter {}, mean, KiB", n + 1),
                mean,
            );
        }
        if last > first + GROWTH_KIB {
            world
                .report
                .defect(format!("memory grew from {first} KiB to {last} KiB"));
        }
    } else {
        world.report.defect("memory was never sampled".into());
    }
}

fn soak_kills(options: Options) -> usize {
    let kills: u64 = setting("SOAK_KILLS", 500);
    let (world, _registry) = World::new(options);
    let is_over = AtomicBool::new(false);
    let (wipes, damaged) = (Counter::default(), Counter::default());
    let (mut most_made, at_work) = (0, Counter::default());
    thread::scope(|scope| {
        let window = world.windows.begin(&[Fault::Kill]);
        for client in 0..CLIENTS / 2 {
            let (world, is_over) = (&world, &is_over);
            scope.spawn(move || {
                let mut dice = world.dice(100 + client);
                while !is_over.load(SeqCst) {
                    world.round(&mut dice, MADE_IN_KILLS);
                }
            });
        }
        let mut dice = world.dice(5);
        for _ in 0..kills {
            await_start(&world);
            // Long enough to make something, short enough to be in the middle of it.
            thread::sleep(dice.milliseconds(0..800) / (1 << dice.from(0..4)) as u32);
            let cache = &world.options.cache;
            world.systemd.kill_and(|| {
                most_made = cache.made().max(most_made);
                at_work.add(u64::from(!cache.temporary().is_empty()));
                match dice.from(0..4) {
                    0 => {
                        cache.wipe();
                        wipes.up();
                    }
                    1 => damaged.add(cache.damage(&mut dice)),
                    _ => {}
                }
            });
        }
        is_over.store(true, SeqCst);
        drop(window);
    });
    let whole_bodies = world.report.whole_bodies.get();
    world.get_all_in_quiet();
    world.report.print();
    row("kills", world.systemd.kills());
    row(
        "… in the middle of writing a file of the cache",
        at_work.get(),
    );
    row("… after which the cache was wiped", wipes.get());
    row("… cache files damaged after others", damaged.get());
    row("starts of the service", world.systemd.starts());
    row("made files after a kill, at most, MiB", most_made >> 20);
    // A file is kept before others make room for it.
    let limit = (CACHE_SIZE_MIB << 20) + world.largest_made + (1 << 20);
    for (is_wrong, what) in [
        (
            world.systemd.kills() < kills,
            "it was not killed that often",
        ),
        (at_work.get() == 0, "no kill met it while it wrote"),
        (whole_bodies == 0, "nothing arrived whole between the kills"),
        (most_made > limit, "a kill left far more than 'cache-size'"),
    ] {
        if is_wrong {
            world.report.defect(what.to_owned());
        }
    }
    world.end()
}

fn await_start(world: &World) {
    let begun = Instant::now();
    while world.systemd.pid().is_none() {
        if begun.elapsed() > report::HANG {
            return world.report.defect("nobody asks any more".into());
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Services side by side. More, and the machine is too busy to aim.
const LANES: u64 = 12;
const IDLE_TIMEOUT: Duration = Duration::from_millis(20);

fn soak_idle(options: Options) -> usize {
    let connections: u64 = setting("SOAK_CONNECTIONS", 100_000);
    let layout = options.directory.join("layout");
    let mut content = Repository::default();
    content.oras_push("v1", "hello.raw", b"hello");
    content.write_layout(&layout);
    let right = format!("{}  hello-v1.raw\n", content::sha256(b"hello"));
    let config = options.directory.join("config.toml");
    let text = format!(
        "idle-timeout-sec = {}\n[repository.hello]\nsource = \"oci:{}\"\n",
        IDLE_TIMEOUT.as_secs_f64(),
        layout.display()
    );
    fs::write(&config, text).unwrap();
    let log = options.directory.join("service.log");
    let start = Start {
        program: options.program,
        config,
        cache: None,
        log: log.clone(),
        environment: Vec::new(),
    };
    let (answered, starts, exits) = (Counter::default(), Counter::default(), Counter::default());
    let (longest, lost) = (Mutex::new(Duration::ZERO), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for lane in 0..LANES {
            let (start, right, seed) = (start.clone(), right.as_str(), options.seed);
            let (answered, starts, exits) = (&answered, &starts, &exits);
            let (longest, lost) = (&longest, &lost);
            scope.spawn(move || {
                let systemd = Systemd::new(start);
                let mut dice = Dice::new(seed, lane);
                let mine = connections / LANES + u64::from(lane < connections % LANES);
                for _ in 0..mine {
                    let begun = Instant::now();
                    match Http::new(systemd.address).get("/hello/SHA256SUMS") {
                        End::Whole(answer)
                            if answer.status == 200 && answer.body == right.as_bytes() =>
                        {
                            answered.up();
                        }
                        End::Whole(answer) => lost
                            .lock()
                            .unwrap()
                            .push(format!("another answer, {}", answer.status)),
                        End::Broken(why) => lost.lock().unwrap().push(why),
                        End::Hang | End::Left => lost.lock().unwrap().push("no answer".into()),
                    }
                    let mut longest = longest.lock().unwrap();
                    *longest = begun.elapsed().max(*longest);
                    drop(longest);
                    // The time runs from when the service last took a connection: a little before the answer.
                    let aim = dice.from(17_000..23_000);
                    thread::sleep(Duration::from_micros(aim));
                }
                starts.add(systemd.starts());
                exits.add(systemd.bad_exits().len() as u64);
                systemd.stop();
            });
        }
    });
    let lost = lost.into_inner().unwrap();
    row("connections around the idle deadline", connections);
    row("answered", answered.get());
    row("lost (must be 0)", lost.len());
    row("starts of the service", starts.get());
    let longest = longest.into_inner().unwrap().as_secs_f64();
    row("longest request, s", format!("{longest:.2}"));
    let mut defects = lost.len();
    for why in lost.iter().take(10) {
        println!("DEFECT a connection was lost: {why}");
    }
    if exits.get() > 0 {
        println!("DEFECT {} starts ended without success", exits.get());
        defects += 1;
    }
    for line in world::panics(&fs::read_to_string(log).unwrap()) {
        println!("DEFECT {line}");
        defects += 1;
    }
    // Neither always before the deadline nor always after it, or it was not aimed at.
    if !(connections / 20..connections * 19 / 20).contains(&starts.get()) {
        println!("DEFECT the deadline was missed: {} starts", starts.get());
        defects += 1;
    }
    defects
}
