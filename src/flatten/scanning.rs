//! Scans a layer while it is sent.
//!
//! Place in the chain: source → resumed → **scanning** → verified → socket. An image of one layer is offered as that
//! layer before it was scanned. If the scan shows that the image has to be flattened, the download is cut short.

use std::io::{self, PipeWriter, Read, Write};
use std::thread::{self, JoinHandle};

use log::debug;

use super::{Verdict, scan};

/// Reads and scans a layer of known size.
pub struct ScanningReader<R> {
    inner: R,
    /// Bytes still to come.
    left: u64,
    scan: Option<Scan>,
    /// Called when the image has to be flattened, or the scan failed.
    to_flatten: Option<Box<dyn FnOnce() + Send>>,
}

/// A thread that scans the bytes from a pipe.
struct Scan {
    pipe: PipeWriter,
    thread: JoinHandle<Option<Verdict>>,
}

impl<R: Read> ScanningReader<R> {
    /// A layer of `size` bytes. Without a thread for it, it is not scanned.
    pub fn new(inner: R, size: u64, to_flatten: impl FnOnce() + Send + 'static) -> Self {
        let scan = Scan::begin();
        if let Err(error) = &scan {
            debug!("a layer is sent without a scan: {error}");
        }
        Self {
            inner,
            left: size,
            scan: scan.ok(),
            to_flatten: Some(Box::new(to_flatten)),
        }
    }
}

impl Scan {
    fn begin() -> io::Result<Self> {
        let (reader, pipe) = io::pipe()?;
        let thread = thread::Builder::new().name("scan".into());
        let thread = thread.spawn(move || scan(reader).ok())?;
        Ok(Self { pipe, thread })
    }

    /// The verdict, after the last byte of the layer or once the thread has stopped reading.
    fn end(self) -> Option<Verdict> {
        drop(self.pipe);
        self.thread.join().ok().flatten()
    }
}

impl<R: Read> Read for ScanningReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.left = self.left.saturating_sub(n as u64);
        let Some(scan) = &mut self.scan else {
            return Ok(n);
        };
        // The thread stops reading when it has its verdict.
        let is_over = scan.pipe.write_all(&buffer[..n]).is_err() || self.left == 0;
        if !is_over {
            return Ok(n);
        }
        let verdict = self.scan.take().and_then(Scan::end);
        if verdict != Some(Verdict::Clean)
            && let Some(to_flatten) = self.to_flatten.take()
        {
            to_flatten();
        }
        match verdict {
            Some(Verdict::MustFlatten) => Err(io::Error::other(
                "this layer has whiteouts, or other entries that are no files of the image; \
                 the next listing offers the flattened image",
            )),
            // The digest is verified at the end; without a verdict the layer is sent as it is.
            _ => Ok(n),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn layer(path: &str) -> Vec<u8> {
        let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for path in ["a", path, "c"] {
            let mut header = tar::Header::new_ustar();
            header.set_size(3000);
            header.set_cksum();
            builder
                .append_data(&mut header, path, &[7; 3000][..])
                .unwrap();
        }
        builder.into_inner().unwrap().finish().unwrap()
    }

    #[test]
    fn a_layer_that_is_no_file_never_arrives_whole() {
        for (bytes, arrives, is_told, why) in [
            (layer("b"), true, false, "a clean one"),
            (layer(".wh.b"), false, true, "one with a whiteout"),
            (vec![b'x'; 5000], false, true, "one that is not packed"),
            (layer("b")[..100].to_vec(), true, true, "nobody knows"),
        ] {
            for piece in [1, 64, 100_000] {
                let told = Arc::new(AtomicUsize::new(0));
                let tell = told.clone();
                let size = bytes.len() as u64;
                let mut reader = ScanningReader::new(&*bytes, size, move || {
                    tell.fetch_add(1, Ordering::SeqCst);
                });
                let (mut arrived, mut buffer) = (Vec::new(), vec![0; piece]);
                let end = loop {
                    match reader.read(&mut buffer) {
                        Ok(0) => break Ok(()),
                        Ok(n) => arrived.extend_from_slice(&buffer[..n]),
                        Err(error) => break Err(error),
                    }
                };
                assert_eq!(
                    (end.is_ok(), arrived == bytes),
                    (arrives, arrives),
                    "{why}, {piece}"
                );
                assert_eq!(
                    told.load(Ordering::SeqCst),
                    usize::from(is_told),
                    "{why}, {piece}"
                );
            }
        }
    }
}
