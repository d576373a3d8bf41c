//! A blob by ranges and by a plan, from a source that is in memory.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use super::ranges::{Blob, OF_A_CONNECTION, Places, WINDOW, WINDOW_OF_PLAN, Whole};
use super::resume::PATIENCE;
use super::reuse::Reuse;
use super::{Planned, REQUESTS, Reused, Seed, WINDOWS, open_by_plan};
use crate::delta::index::{Hashing, Index};
use crate::delta::plan::{Plan, Run};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::manifest::Descriptor;
use crate::name::Tag;
use crate::source::{Body, Download, Origins, Part, Reference, Source, StoredManifest};
use crate::task;

/// Bytes that a window has when the thread of its connection panics.
const FETCHED: usize = 100_000;

/// The answer to the request with this number, for this range of these bytes.
type Answer = Box<dyn Fn(usize, &[u8], Range<usize>) -> Result<Body> + Send + Sync>;

/// A source of one blob.
struct Fake {
    bytes: Vec<u8>,
    answer: Answer,
    asked: Mutex<Vec<Range<u64>>>,
    /// How often it was told that its bytes were wrong.
    blamed: AtomicUsize,
}

impl Fake {
    fn new(
        bytes: &[u8],
        answer: impl Fn(usize, &[u8], Range<usize>) -> Result<Body> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            bytes: bytes.to_vec(),
            answer: Box::new(answer),
            asked: Mutex::default(),
            blamed: AtomicUsize::default(),
        })
    }

    fn blob(self: &Arc<Self>) -> Blob {
        Blob {
            source: self.clone(),
            origins: Origins::default(),
            digest: Digest::of(&self.bytes),
            size: self.bytes.len() as u64,
            what: "blob".into(),
            fetched: Arc::default(),
            patience: PATIENCE,
        }
    }

    /// The ranges that were asked for, sorted.
    fn asked(&self) -> Vec<Range<u64>> {
        let mut asked = lock(&self.asked).clone();
        asked.sort_by_key(|range| range.start);
        asked
    }
}

/// These bytes of a blob.
fn part(bytes: &[u8], range: Range<usize>) -> Result<Body> {
    Ok(Body {
        reader: Box::new(io::Cursor::new(bytes[range.clone()].to_vec())),
        starts_at: range.start as u64,
        ends_at: range.end as u64,
    })
}

fn well(_: usize, bytes: &[u8], range: Range<usize>) -> Result<Body> {
    part(bytes, range)
}

fn missing() -> Result<Body> {
    Err(Error::Missing { url: "blob".into() })
}

fn forbidden() -> Result<Body> {
    Err(Error::UnexpectedStatus {
        url: "blob".into(),
        status: 418,
        message: String::new(),
    })
}

impl Source for Fake {
    fn blob(&self, _: Digest, _: u64, range: Range<u64>, _: &Origins) -> Result<Body> {
        let [start, end] = [range.start, range.end].map(|n| usize::try_from(n).unwrap());
        let number = {
            let mut asked = lock(&self.asked);
            asked.push(range);
            asked.len() - 1
        };
        (self.answer)(number, &self.bytes, start..end)
    }

    fn name(&self) -> String {
        unreachable!()
    }
    fn tags(&self) -> Result<Vec<Tag>> {
        unreachable!()
    }
    fn digest_of(&self, _: &Tag) -> Result<Option<Digest>> {
        unreachable!()
    }
    fn manifest(&self, _: Reference<'_>) -> Result<StoredManifest> {
        unreachable!()
    }
    fn whole_blob(&self, _: Digest, _: &Origins) -> Result<(u64, Box<dyn Read + Send>)> {
        unreachable!()
    }
    fn blob_range(&self, _: Digest, _: u64, _: Range<u64>) -> Result<Part> {
        unreachable!()
    }
    fn holds(&self, _: Digest) -> Result<bool> {
        unreachable!()
    }
    fn referrers(&self, _: Digest) -> Result<Vec<Descriptor>> {
        unreachable!()
    }
    fn companion(&self, _: &Tag) -> Result<Option<StoredManifest>> {
        unreachable!()
    }
    fn note_wrong_bytes(&self, _: Digest, _: &Origins) {
        self.blamed.fetch_add(1, SeqCst);
    }
    fn blob_url(&self, _: Digest) -> Result<Option<String>> {
        unreachable!()
    }
    fn blob_request(&self, _: Digest) -> Result<Download> {
        unreachable!()
    }
    fn manifest_request(&self, _: Reference<'_>, _: &str) -> Result<Download> {
        unreachable!()
    }
}

struct Panic;

impl Read for Panic {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        panic!("the test wants this")
    }
}

#[test]
fn a_window_whose_thread_panics_goes_on_from_its_bytes() {
    // More than fit: the other connection does not end before that thread panics.
    let bytes: Vec<u8> = (0..8 * WINDOW + 3).map(|n| (n % 251) as u8).collect();
    let fake = Fake::new(&bytes, |_, bytes, range| {
        let body = part(bytes, range.clone())?;
        if range.start != WINDOW {
            return Ok(body);
        }
        let fetched = bytes[WINDOW..WINDOW + FETCHED].to_vec();
        Ok(Body {
            reader: Box::new(io::Cursor::new(fetched).chain(Panic)),
            ..body
        })
    });
    let blob = fake.blob();
    let places = Places::take(blob.size, 2).unwrap();
    let all = 0..blob.size;
    let first = blob.open(places.first(&[all])).unwrap();
    let mut whole = Whole::begin(places, blob, first);
    let mut arrived = Vec::new();
    whole.read_to_end(&mut arrived).unwrap();
    assert!(arrived == bytes);
    let window = WINDOW as u64;
    let rest = window + FETCHED as u64..2 * window;
    assert!(fake.asked().contains(&rest), "{:?}", fake.asked());
}

/// Chunks of the image in [`Older`].
const CHUNKS: usize = 200;

/// An image, and the older one on this machine. Every third chunk is new, and the others have moved by some bytes.
struct Older {
    image: Vec<u8>,
    path: PathBuf,
    ends: Vec<u64>,
    ids: Vec<u8>,
}

impl Older {
    /// `length`: of a chunk with this number.
    fn new(name: &str, length: impl Fn(usize) -> usize) -> Self {
        let (mut image, mut old) = (Vec::new(), b"moved".to_vec());
        let (mut ends, mut ids) = (Vec::new(), Vec::new());
        for n in 0..CHUNKS {
            let mut chunk = vec![n as u8; length(n)];
            for (at, byte) in chunk.iter_mut().step_by(997).enumerate() {
                *byte = at as u8;
            }
            ids.extend(Hashing::Sha256.id(&chunk));
            image.extend_from_slice(&chunk);
            ends.push(image.len() as u64);
            match is_new(n) {
                true => old.resize(old.len() + chunk.len(), 7),
                false => old.extend(chunk),
            }
        }
        let name = format!("sysext-oci-proxy-reuse-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, old).unwrap();
        Self {
            image,
            path,
            ends,
            ids,
        }
    }

    fn index(&self) -> Index {
        self.index_of(self.ids.clone())
    }

    /// The index with these hashes.
    fn index_of(&self, ids: Vec<u8>) -> Index {
        Index::of_chunks(Hashing::Sha256, self.ends.clone(), ids.into()).unwrap()
    }

    /// The ranges of the image that the older one lacks, with the run that is held.
    fn plan(&self) -> Plan {
        let index = self.index();
        let runs = index.chunks().enumerate().map(|(n, chunk)| match n {
            6 => Run::Held {
                at: chunk.start,
                bytes: self.image[bytes(&chunk.bytes())].into(),
            },
            n if is_new(n) => Run::Blob(chunk.bytes()),
            n => Run::Seed {
                seed: 0,
                from: chunk.start + 5,
                chunks: n..n + 1,
            },
        });
        Plan {
            size: self.image.len() as u64,
            runs: runs.collect(),
            index,
        }
    }

    fn planned(&self, plan: Plan, note_wrong: impl Fn() + Send + Sync + 'static) -> Planned {
        let seed = Seed {
            name: "old.raw".into(),
            file: File::open(&self.path).unwrap(),
        };
        Planned {
            plan,
            seeds: vec![seed],
            fetched: 1000,
            connections: REQUESTS,
            held: WINDOWS.take(0).unwrap(),
            note_wrong: Box::new(note_wrong),
        }
    }

    /// Bytes that are in a range of the plan.
    fn missing(&self) -> usize {
        let plan = self.plan();
        usize::try_from(plan.missing()).unwrap()
    }

    fn begin(&self, source: &Arc<Fake>, plan: Plan) -> Result<(Reuse, Arc<Reused>)> {
        Reuse::begin(source.blob(), self.planned(plan, || ()))
    }
}

impl Drop for Older {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn is_new(n: usize) -> bool {
    n.is_multiple_of(3)
}

fn bytes(range: &Range<u64>) -> Range<usize> {
    range.start as usize..range.end as usize
}

#[test]
fn a_blob_is_made_of_an_older_file_and_ranges() {
    for (name, length, buffer) in [
        ("small", 4096, 1 << 20),
        ("blocks", 4096, 1000),
        ("large", 70_000, 4096),
        ("byte", 1, 3),
    ] {
        let older = Older::new(name, |n| length + n % 2);
        let source = Fake::new(&older.image, well);
        let (mut reuse, reused) = older.begin(&source, older.plan()).unwrap();
        let (mut arrived, mut piece) = (Vec::new(), vec![0; buffer]);
        loop {
            match reuse.read(&mut piece).unwrap() {
                0 => break,
                n => arrived.extend_from_slice(&piece[..n]),
            }
        }
        assert!(arrived == older.image, "{name}");
        let plan = older.plan();
        let wanted = plan.runs.into_iter().filter_map(|run| match run {
            Run::Blob(range) => Some(range),
            _ => None,
        });
        assert_eq!(source.asked(), wanted.collect::<Vec<_>>(), "{name}");
        let told = (reused.fetched(), reused.seeds(), reused.dropped());
        assert_eq!(
            told,
            (1000 + older.missing() as u64, "old.raw", None),
            "{name}"
        );
    }
}

/// The bytes that arrive, and the error at which they end.
fn read_all(mut reuse: impl Read) -> (Vec<u8>, Option<io::Error>) {
    let mut arrived = Vec::new();
    let error = reuse.read_to_end(&mut arrived).err();
    (arrived, error)
}

#[test]
fn at_the_first_doubt_a_plain_download_goes_on_from_the_same_byte() {
    type Harm = fn(&Older, &mut Plan);
    type Row = (
        &'static str,
        Harm,
        fn(usize, &[u8], Range<usize>) -> Result<Body>,
        &'static str,
    );
    let no_harm: Harm = |_, _| ();
    let rows: [Row; 9] = [
        (
            "the older file is short",
            |older, _| {
                File::options()
                    .write(true)
                    .open(&older.path)
                    .unwrap()
                    .set_len(400_000)
                    .unwrap()
            },
            well,
            "old.raw cannot be read: it is shorter than before",
        ),
        (
            "it is empty",
            |older, _| fs::write(&older.path, "").unwrap(),
            well,
            "old.raw cannot be read: it is shorter than before",
        ),
        (
            "a byte in the middle has changed",
            |older, _| {
                let at = older.plan().index.chunk(100).start + 5;
                let mut old = fs::read(&older.path).unwrap();
                old[at as usize] ^= 1;
                fs::write(&older.path, old).unwrap();
            },
            well,
            "old.raw lacks the chunk for byte",
        ),
        (
            "the plan has the wrong place of the older file",
            |_, plan| {
                let Run::Seed { from, .. } = &mut plan.runs[4] else {
                    unreachable!()
                };
                *from += 1;
            },
            well,
            "old.raw lacks the chunk for byte",
        ),
        (
            "the plan leaves bytes out",
            |_, plan| drop(plan.runs.remove(10)),
            well,
            "the plan has nothing at byte",
        ),
        (
            "the index is of another file",
            |older, plan| {
                let mut ids = older.ids.clone();
                ids[0] ^= 1;
                plan.index = older.index_of(ids);
            },
            well,
            "the index is of another file: the chunk at byte 0 has another hash",
        ),
        (
            "ranges are not supported",
            no_harm,
            |_, bytes, _| part(bytes, 0..bytes.len()),
            "ranges are not supported",
        ),
        (
            "ranges are not supported any more",
            no_harm,
            |number, bytes, range| match number < 10 {
                true => part(bytes, range),
                false => part(bytes, 0..bytes.len()),
            },
            "ranges are not supported any more",
        ),
        (
            "a short range",
            no_harm,
            |number, bytes, range| match number == 10 {
                true => part(bytes, range.start..range.end - 1),
                false => part(bytes, range),
            },
            "",
        ),
    ];
    for (why, harm, answer, told) in rows {
        let older = Older::new("doubt", |n| 4096 + n);
        let mut plan = older.plan();
        harm(&older, &mut plan);
        let source = Fake::new(&older.image, answer);
        let (reuse, reused) = older.begin(&source, plan).unwrap();
        let (arrived, error) = read_all(reuse);
        assert!(
            error.is_none() && arrived == older.image,
            "{why}: {error:?}"
        );
        let dropped = reused.dropped().unwrap_or_default();
        assert!(
            dropped.starts_with(told) && told.is_empty() == dropped.is_empty(),
            "{why}: {dropped}"
        );
    }
}

/// No byte comes of it until the end of the time.
struct Silent;

impl Read for Silent {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        task::sleep(Duration::from_secs(20)).map_err(io::Error::other)?;
        Err(io::ErrorKind::TimedOut.into())
    }
}

fn silence() -> Result<Body> {
    let patience = Duration::from_secs(20);
    task::sleep(patience)?;
    Err(Error::TooSlow {
        url: "blob".into(),
        limit: patience,
    })
}

/// Whatever hangs, the client waits for the next byte no longer than for any other download.
#[test]
fn ranges_that_hang_leave_time_for_a_plain_download() {
    type Row = (
        &'static str,
        fn(usize, &[u8], Range<usize>) -> Result<Body>,
        bool,
        &'static str,
    );
    fn is_rest(bytes: &[u8], range: &Range<usize>) -> bool {
        range.end == bytes.len() && range.len() > bytes.len() / 2
    }
    fn silent(bytes: &[u8], range: Range<usize>) -> Result<Body> {
        Ok(Body {
            reader: Box::new(Silent),
            ..part(bytes, range)?
        })
    }
    let rows: [Row; 5] = [
        (
            "all but the first range, whose bodies are silent",
            |number, bytes, range| match number == 0 || is_rest(bytes, &range) {
                true => part(bytes, range),
                false => silent(bytes, range),
            },
            true,
            "no range arrived for 0 s",
        ),
        (
            "all but the first range, which are not answered",
            |number, bytes, range| match number == 0 || is_rest(bytes, &range) {
                true => part(bytes, range),
                false => silence(),
            },
            true,
            "no range arrived for 0 s",
        ),
        (
            "the first range, too",
            |_, bytes, range| match is_rest(bytes, &range) {
                true => part(bytes, range),
                false => silence(),
            },
            true,
            "the first range takes too long",
        ),
        (
            "the plain download is silent, too",
            |number, bytes, range| match number == 0 {
                true => part(bytes, range),
                false => silent(bytes, range),
            },
            false,
            "no range arrived for 0 s",
        ),
        (
            "the plain download is not answered, too",
            |number, bytes, range| match number == 0 {
                true => part(bytes, range),
                false => silence(),
            },
            false,
            "no range arrived for 0 s",
        ),
    ];
    for (why, answer, is_whole, told) in rows {
        let older = Older::new("hanging", |_| 4096);
        let source = Fake::new(&older.image, answer);
        let blob = Blob {
            patience: Duration::from_millis(600),
            ..source.blob()
        };
        let begun = Instant::now();
        let (reuse, reused) = Reuse::begin(blob, older.planned(older.plan(), || ())).unwrap();
        let (arrived, error) = read_all(reuse);
        let time = begun.elapsed();
        assert!(time < Duration::from_millis(1500), "{why}: {time:?}");
        assert_eq!(
            (error.is_none(), arrived == older.image),
            (is_whole, is_whole),
            "{why}"
        );
        assert!(older.image.starts_with(&arrived), "{why}");
        assert_eq!(reused.dropped(), Some(told), "{why}");
    }
}

/// The same for a file that is fetched whole over several connections.
#[test]
fn windows_that_hang_leave_time_for_one_connection() {
    let image: Vec<u8> = (0..5 * WINDOW as u32).map(|n| (n % 251) as u8).collect();
    for is_whole in [true, false] {
        let source = Fake::new(&image, move |number, bytes, range| {
            match number == 0 || is_whole && range.end == bytes.len() && range.len() > WINDOW {
                true => part(bytes, range),
                false => silence(),
            }
        });
        let blob = Blob {
            patience: Duration::from_millis(600),
            ..source.blob()
        };
        let places = Places::take(blob.size, 2).unwrap();
        let first = blob.open(0..WINDOW as u64).unwrap();
        let begun = Instant::now();
        let (arrived, error) = read_all(Whole::begin(places, blob, first));
        let time = begun.elapsed();
        assert!(time < Duration::from_millis(1500), "{time:?}");
        assert_eq!((error.is_none(), arrived == image), (is_whole, is_whole));
    }
}

#[test]
fn a_file_that_cannot_be_read_is_a_doubt() {
    let older = Older::new("unreadable", |_| 4096);
    let source = Fake::new(&older.image, well);
    let mut planned = older.planned(older.plan(), || ());
    planned.seeds[0].file = File::options().write(true).open(&older.path).unwrap();
    let (reuse, reused) = Reuse::begin(source.blob(), planned).unwrap();
    let (arrived, _) = read_all(reuse);
    assert!(arrived == older.image);
    assert!(
        reused
            .dropped()
            .unwrap()
            .starts_with("old.raw cannot be read: ")
    );
}

/// Such a plan would be a mistake of this program, and the repository would not have shown that it holds the blob.
#[test]
fn a_plan_without_ranges_is_a_plain_download() {
    let older = Older::new("rangeless", |_| 4096);
    let mut plan = older.plan();
    plan.runs = vec![Run::Held {
        at: 0,
        bytes: older.image.clone().into(),
    }];
    let source = Fake::new(&older.image, well);
    let (reuse, _) = older.begin(&source, plan).unwrap();
    assert!(read_all(reuse).0 == older.image);
    let whole = 0..older.image.len() as u64;
    assert_eq!(source.asked(), vec![whole]);
}

#[test]
fn a_repository_that_lacks_the_blob_gives_no_byte() {
    let older = Older::new("lacking", |_| 4096);
    for refusal in [missing, forbidden] {
        let source = Fake::new(&older.image, move |_, _, _| refusal());
        assert!(older.begin(&source, older.plan()).is_err());
        assert_eq!(source.asked().len(), 1);
    }
}

#[test]
fn a_blob_that_is_refused_on_the_way_breaks_off() {
    let older = Older::new("refused", |_| 4096);
    let source = Fake::new(&older.image, |number, bytes, range| match number < 10 {
        true => part(bytes, range),
        false => forbidden(),
    });
    let (reuse, reused) = older.begin(&source, older.plan()).unwrap();
    let (arrived, error) = read_all(reuse);
    assert!(error.is_some() && reused.dropped().is_some());
    assert!(arrived.len() < older.image.len() && older.image.starts_with(&arrived));
}

/// The index is of another image, of which the older file has much; or the source has no ranges, and its bytes are wrong.
#[test]
fn wrong_bytes_complete_nothing_and_are_noted_of_the_plan_or_of_the_source() {
    type Answer = fn(usize, &[u8], Range<usize>) -> Result<Body>;
    let without_ranges: Answer = |_, bytes, _| part(bytes, 0..bytes.len());
    let older = Older::new("lies", |_| 4096);
    let mut other = older.image.clone();
    other[5000] ^= 1;
    let (image, other) = (&older.image, &other);
    let rows: [(&[u8], &[u8], Answer, _); 2] = [
        (other, other, well, (1, 0)),
        (other, image, without_ranges, (0, 1)),
    ];
    for (bytes, expected, answer, outcome) in rows {
        let source = Fake::new(bytes, answer);
        let noted = Arc::new(AtomicUsize::new(0));
        let note = noted.clone();
        let planned = older.planned(older.plan(), move || {
            note.fetch_add(1, SeqCst);
        });
        let dynamic: Arc<dyn Source> = source.clone();
        let opened = open_by_plan(&dynamic, Digest::of(expected), "blob".into(), planned);
        let (arrived, error) = read_all(opened.unwrap().1);
        let error = error.unwrap().downcast().unwrap();
        assert!(matches!(error, Error::WrongBytes { .. }), "{error}");
        assert!(arrived.len() < expected.len());
        assert_eq!((noted.load(SeqCst), source.blamed.load(SeqCst)), outcome);
    }
}

#[test]
fn several_ranges_are_under_way_at_once_also_over_one_connection() {
    let older = Older::new("together", |_| 4096);
    let together = Arc::new(Barrier::new(REQUESTS));
    // The first request is answered before the others are sent.
    let source = Fake::new(&older.image, move |number, bytes, range| {
        let body = part(bytes, range)?;
        if (1..=REQUESTS * 4).contains(&number) {
            together.wait();
        }
        Ok(body)
    });
    let dynamic: Arc<dyn Source> = source.clone();
    let planned = older.planned(older.plan(), || ());
    let opened = open_by_plan(&dynamic, Digest::of(&older.image), "blob".into(), planned);
    let (arrived, error) = read_all(opened.unwrap().1);
    assert!(arrived == older.image && error.is_none());
}

#[test]
fn ranges_wait_for_a_reader_in_little_memory() {
    // More than fit are missing, in ranges of all sizes.
    let older = Older::new("memory", |n| 1 + n * 20_000 % 700_000);
    let room = REQUESTS * OF_A_CONNECTION * WINDOW_OF_PLAN;
    assert!(older.missing() > 2 * room);
    let source = Fake::new(&older.image, well);
    let (mut reuse, _) = older.begin(&source, older.plan()).unwrap();
    let asked = || -> u64 {
        source
            .asked()
            .iter()
            .map(|range| range.end - range.start)
            .sum()
    };
    let mut before = 0;
    while asked() != before || before == 0 {
        before = asked();
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(before <= room as u64, "{before} bytes of {room}");
    let mut arrived = Vec::new();
    reuse.read_to_end(&mut arrived).unwrap();
    assert!(arrived == older.image);
}
