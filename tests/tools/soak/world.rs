//! Everything the soak test has: registry, network, service, cache; and the clients' judgement of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::cache::CacheDirectory;
use crate::client::{Answer, End, Http};
use crate::dice::Dice;
use crate::registry::Registry;
use crate::relay::Relay;
use crate::report::{Failure, Report, Windows, row};
use crate::stock::{self, Offer, Stock};
use crate::systemd::{Start, Systemd};

/// Less than all images take, so that some are made again and again.
pub const CACHE_SIZE_MIB: u64 = 20;
/// Connections that the service may keep to the registry.
pub const PARALLEL: u64 = 8;
/// Until the service leaves.
pub const IDLE: Duration = Duration::from_secs(10);
/// After a fault a listing that lacks something is given out a little longer.
const GRACE: Duration = Duration::from_millis(2500);
const VERSIONS: usize = 3;

/// The options of the soak test.
pub struct Options {
    pub program: PathBuf,
    /// Where everything lies that it makes.
    pub directory: PathBuf,
    pub cache: CacheDirectory,
    pub seed: u64,
    /// libfaketime
    pub faketime: String,
    /// The fault that is injected.
    pub breaks: Option<String>,
}

pub struct World {
    pub options: Options,
    pub stocks: Vec<Stock>,
    pub relay: Relay,
    pub systemd: Systemd,
    pub report: Report,
    pub windows: Windows,
    /// Images were unpacked and compared so often.
    pub unpacked: u64,
    /// In bytes, of what was made.
    pub largest_made: u64,
    /// SHA-256 of what is said of an image, once it was seen to be right.
    side_file: Option<String>,
}

impl World {
    /// Fills a registry and sees that all of it arrives as it should.
    pub fn new(options: Options) -> (World, Registry) {
        let dice = |purpose| Dice::new(options.seed, purpose);
        let registry = Registry::start(&options.directory);
        let stocks = vec![
            stock::plain("files", &mut dice(1)),
            stock::containers("tools", VERSIONS, &mut dice(2)),
            stock::containers("things", VERSIONS, &mut dice(3)),
        ];
        for stock in &stocks {
            registry.push(stock.name, &stock.content);
        }
        let relay = Relay::new(&registry.address, dice(4));
        let config = options.directory.join("config.toml");
        let text = format!(
            "registry = \"{}\"\nidle-timeout-sec = {}\nlisting-ttl-sec = 1\nparallel = {PARALLEL}\n\
             cache-size = \"{CACHE_SIZE_MIB}M\"\n",
            relay.address,
            IDLE.as_secs()
        );
        fs::write(&config, text).unwrap();
        let systemd = Systemd::new(Start {
            program: options.program.clone(),
            config,
            cache: Some(options.cache.path.clone()),
            log: options.directory.join("service.log"),
            environment: clock(&options.directory, &options.faketime),
        });
        let mut world = World {
            options,
            stocks,
            relay,
            systemd,
            report: Report::default(),
            windows: Windows::new(GRACE),
            unpacked: 0,
            largest_made: 0,
            side_file: None,
        };
        world.learn();
        world.try_clock();
        let damages = world.options.breaks.as_deref() == Some("registry");
        world.relay.set_damaging(damages);
        (world, registry)
    }

    /// The checksum of a flattened image is not known before. It is taken as right if the contents are.
    fn learn(&mut self) {
        let http = Http::new(self.systemd.address);
        for n in 0..self.stocks.len() {
            let names = self.listing(&self.stocks[n]);
            let name = self.stocks[n].name;
            assert_eq!(names.len(), self.stocks[n].files.len(), "{name}: {names:?}");
            for (file, offer) in &mut self.stocks[n].files {
                let Offer::Flattened { files, hex } = offer else {
                    continue;
                };
                let End::Whole(answer) = http.get(&format!("/{name}/{file}")) else {
                    panic!("{file} did not arrive");
                };
                assert_eq!(answer.status, 200, "{file}");
                let found = stock::unpack(&answer.body).unwrap();
                assert!(found == *files, "{file} has other files in it");
                self.unpacked += 1;
                self.largest_made = self.largest_made.max(answer.size);
                *hex = Some(answer.hex);
            }
        }
        let End::Whole(answer) = http.get(&format!("/files/{}", stock::SIDE_FILE)) else {
            panic!("{} did not arrive", stock::SIDE_FILE);
        };
        let said = stock::gunzip(&answer.body).unwrap();
        assert!(said.contains("\"ID\":\"fedora\""), "{said}");
        self.side_file = Some(answer.hex);
    }

    /// A library that the service does not heed would be no clock at all.
    fn try_clock(&self) {
        let year = |days| {
            self.set_clock(days);
            let End::Whole(answer) = Http::new(self.systemd.address).get("/") else {
                panic!("no answer");
            };
            // Sun, 06 Nov 1994 08:49:37 GMT
            answer.header("date").unwrap()[12..16].to_owned()
        };
        assert_ne!(
            year(1000),
            year(0),
            "the service does not see the clock jump"
        );
    }

    pub fn dice(&self, purpose: u64) -> Dice {
        Dice::new(self.options.seed, purpose)
    }

    /// The round of a client: it gets a listing, and one of the files in it. `chance` of a hundred are flattened ones.
    pub fn round(&self, dice: &mut Dice, chance: u64) {
        let stock = match dice.percent(chance) {
            true => dice.pick(&self.stocks[1..]),
            false => &self.stocks[0],
        };
        let names = self.listing(stock);
        if names.is_empty() {
            return;
        }
        if dice.percent(5) {
            self.ask_what_an_image_says();
        }
        let name = *dice.pick(&names);
        let mut http = Http::new(self.systemd.address);
        http.leaves_after = dice.percent(5).then(|| dice.from(0..1 << 20));
        // So slowly that most faults meet such a download in the middle.
        http.pace = dice.percent(10).then(|| dice.from(1..6) << 20);
        self.report.slow.add(u64::from(http.pace.is_some()));
        self.download(http, stock, name);
    }

    /// The names in a listing, each line of which was judged.
    fn listing<'a>(&self, stock: &'a Stock) -> Vec<&'a String> {
        let path = format!("/{}/SHA256SUMS", stock.name);
        let http = Http::new(self.systemd.address);
        let begun = Instant::now();
        let Some(answer) = self.answer(&http, stock, &path) else {
            return Vec::new();
        };
        let text = String::from_utf8_lossy(&answer.body);
        let mut found = BTreeSet::new();
        for line in text.lines() {
            let Some((hex, name)) = parse_line(line) else {
                self.report
                    .defect(format!("{path}: not a line of SHA256SUMS: {line:?}"));
                continue;
            };
            match stock.files.get_key_value(name) {
                Some((name, offer)) => {
                    if offer.hex().is_some_and(|right| right != hex) {
                        self.report.defect(format!("{path}: wrong: {line}"));
                    }
                    found.insert(name);
                }
                None if name.starts_with("BEST-BEFORE-") => {}
                None => self.report.defect(format!("{path}: made up: {line}")),
            }
        }
        if text.lines().count() > found.len().max(1) || !text.ends_with('\n') {
            self.report.defect(format!("{path}: odd: {text:?}"));
        }
        self.report.listings.up();
        if found.len() < stock.files.len() {
            self.report.short_listings.up();
            let failure = Failure::Refused {
                made: stock.is_made(),
            };
            if !self.windows.excuse(begun, Instant::now(), failure) {
                let (some, all) = (found.len(), stock.files.len());
                self.report.failed_without.up();
                self.report
                    .defect(format!("{path}: {some} of {all} files, and no fault"));
            }
        }
        found.into_iter().collect()
    }

    fn ask_what_an_image_says(&self) {
        let path = format!("/files/{}", stock::SIDE_FILE);
        let http = Http::new(self.systemd.address);
        let Some(answer) = self.answer(&http, &self.stocks[0], &path) else {
            return;
        };
        self.report.side_files.up();
        if self.side_file.as_ref() != Some(&answer.hex) {
            let said = stock::gunzip(&answer.body);
            self.report.defect(format!("{path}: wrong: {said:?}"));
        }
    }

    fn download(&self, mut http: Http, stock: &Stock, name: &str) {
        let path = format!("/{}/{name}", stock.name);
        http.keeps = false;
        http.flips_bytes = self.options.breaks.as_deref() == Some("body");
        let Some(answer) = self.answer(&http, stock, &path) else {
            return;
        };
        self.report.bytes.add(answer.size);
        match stock.files[name].hex() {
            Some(right) if right != answer.hex => {
                let (hex, size) = (answer.hex, answer.size);
                self.report.defect(format!(
                    "{path}: whole and WRONG: {hex} instead of {right}, {size} bytes"
                ));
            }
            _ => self.report.whole_bodies.up(),
        }
    }

    /// The answer, if it is a good one that came whole. Everything else is counted, and judged.
    fn answer(&self, http: &Http, stock: &Stock, path: &str) -> Option<Answer> {
        let begun = Instant::now();
        let end = http.get(path);
        let ended = Instant::now();
        self.report.requests.up();
        self.report.took(ended - begun);
        let (failure, why) = match end {
            End::Whole(answer) if answer.status == 200 => return Some(answer),
            End::Whole(answer) => {
                let reason = answer.header("x-reason").unwrap_or_default();
                let made = stock.is_made();
                (
                    Failure::Refused { made },
                    format!("{} {reason}", answer.status),
                )
            }
            End::Broken(why) => (Failure::Cut, why),
            End::Hang => {
                self.report.defect(format!("{path}: it hangs"));
                return None;
            }
            End::Left => {
                self.report.left_by_client.up();
                return None;
            }
        };
        if self.windows.excuse(begun, ended, failure) {
            self.report.failed_in_faults.up();
        } else {
            self.report.failed_without.up();
            let took = (ended - begun).as_secs_f64();
            self.report.defect(format!(
                "{path}: failed without a fault that excuses it after {took:.1} s: {why}"
            ));
        }
        None
    }

    /// Waits until faults are over, and gets every file once.
    pub fn get_all_in_quiet(&self) {
        thread::sleep(GRACE + Duration::from_millis(500));
        for stock in &self.stocks {
            let names = self.listing(stock);
            for name in &names {
                self.download(Http::new(self.systemd.address), stock, name);
            }
            let missing = stock.files.keys().filter(|name| !names.contains(name));
            for name in missing {
                self.report
                    .defect(format!("{name}: not offered in the end"));
            }
        }
    }

    /// Judges what is left when nobody asks any more, and stops. How many defects there were.
    pub fn end(self) -> usize {
        self.judge_cache_size();
        self.judge_leftovers();
        self.judge_exits();
        for line in panics(&self.log()) {
            self.report.defect(line);
        }
        let defects = self.report.defects();
        self.systemd.stop();
        defects
    }

    /// The log of the service so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.options.directory.join("service.log")).unwrap()
    }

    /// The temporary files of a killed service must be gone after the next start.
    fn judge_leftovers(&self) {
        for name in self.options.cache.temporary() {
            self.report
                .defect(format!("tmp/{name} is left, and nobody works on it"));
        }
        self.systemd
            .kill_and(|| self.options.cache.leave_temporary());
        self.listing(&self.stocks[0]);
        let after = self.options.cache.temporary();
        row(
            "files left in tmp/ after a kill and a start (must be 0)",
            after.len(),
        );
        for name in after {
            self.report
                .defect(format!("tmp/{name} of a killed process is still there"));
        }
    }

    fn judge_cache_size(&self) {
        let (size, limit) = (self.options.cache.images(), CACHE_SIZE_MIB << 20);
        row("made files and layers in the cache, MiB", size >> 20);
        row("… of at most", CACHE_SIZE_MIB);
        if size > limit {
            self.report.defect(format!(
                "{size} bytes in made/ and layers/, more than {limit}"
            ));
        }
    }

    /// The service must leave by itself, and never have ended in an unexpected way.
    fn judge_exits(&self) {
        let begun = Instant::now();
        while self.systemd.pid().is_some() {
            if begun.elapsed() > IDLE + Duration::from_secs(20) {
                self.report
                    .defect("it does not leave, and nobody asks".into());
                break;
            }
            thread::sleep(Duration::from_millis(100));
        }
        for status in self.systemd.bad_exits() {
            self.report.defect(format!("the service ended: {status}"));
        }
    }

    /// Sets the clock that the service sees so many days ahead or back.
    pub fn set_clock(&self, days: i64) {
        write_clock(&self.options.directory, days);
    }
}

fn parse_line(line: &str) -> Option<(&str, &str)> {
    let (hex, name) = line.split_once("  ")?;
    let is_hex = hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let is_name = !name.is_empty() && !name.contains(['/', ' ', '\\']);
    (hex.len() == 64 && is_hex && is_name).then_some((hex, name))
}

/// Lines of a log that tell of panics: they end a connection, which may have had an excuse.
pub fn panics(log: &str) -> impl Iterator<Item = String> {
    let lines = log.lines().filter(|line| line.contains("panicked"));
    lines.map(|line| format!("the service panicked: {line}"))
}

/// The environment in which the service sees a clock of its own. Only the time of day is: the kernel's
/// monotonic clock does not jump, and the times of files are what they are.
fn clock(directory: &Path, library: &str) -> Vec<(String, String)> {
    write_clock(directory, 0);
    let file = directory.join("clock");
    [
        ("LD_PRELOAD", library),
        ("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("NO_FAKE_STAT", "1"),
        ("FAKETIME_DISABLE_SHM", "1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

fn write_clock(directory: &Path, days: i64) {
    // Renamed, for the service reads it at any moment.
    let new = directory.join("clock.new");
    fs::write(&new, format!("{days:+}d\n")).unwrap();
    fs::rename(new, directory.join("clock")).unwrap();
}
