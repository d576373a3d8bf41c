//! Recognizes gzip, zstd, xz and bzip2 by their first bytes, and unpacks all but bzip2 in bounded memory.
//!
//! Media types and file names are not used: publishers confuse them, and registries do not check them.

use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::num::NonZeroUsize;

use flate2::bufread::MultiGzDecoder;
use flate2::read::ZlibDecoder;
use xz4rust::{XzDecoder, XzReader};

use crate::semaphore::{Permit, Semaphore};

/// Number of first bytes that decide.
const MAGIC: usize = 6;
/// Bytes read at once from a stream.
const BUFFER: usize = 64 << 10;
/// Bytes read at once by the decoder of xz.
const XZ_BUFFER: NonZeroUsize = NonZeroUsize::new(8 << 10).expect("it is not zero");

/// Decoders with a window: each takes up to 32 MiB, so there is one at a time.
static WINDOW: Semaphore = Semaphore::new(1);

/// The compression of a whole file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Compression {
    Gzip,
    Zstd,
    Xz,
    Bzip2,
}

impl Compression {
    /// By the first bytes of a file. `None` if it is not packed.
    pub fn of(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            // A frame, or a skippable frame (RFC 8878 §3.1), which zstd:chunked and pzstd write first.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            // With the head of a block: a tar archive begins with a file name, which may be `BZh9…`.
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, ..] => Some(Self::Bzip2),
            _ => None,
        }
    }

    /// The compression of a stream, and the stream from its first byte on.
    pub fn detect<R: Read>(mut stream: R) -> io::Result<(Option<Self>, impl BufRead)> {
        let mut head = Vec::with_capacity(MAGIC);
        stream.by_ref().take(MAGIC as u64).read_to_end(&mut head)?;
        let compression = Self::of(&head);
        let whole = BufReader::with_capacity(BUFFER, Cursor::new(head).chain(stream));
        Ok((compression, whole))
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
        }
    }
}

/// Unpacks gzip, all members of it.
pub fn gzip<R: BufRead>(packed: R) -> MultiGzDecoder<R> {
    MultiGzDecoder::new(packed)
}

/// Unpacks zstd, all frames of it. See [`Windowed`].
pub fn zstd<'a, R: BufRead>(
    packed: R,
    max_window_log: u32,
    what: impl Fn() -> String,
) -> io::Result<Windowed<zstd::Decoder<'a, R>>> {
    let mut decoder = zstd::Decoder::with_buffer(packed)?;
    decoder.window_log_max(max_window_log)?;
    Windowed::new(decoder, what)
}

/// Unpacks xz. See [`Windowed`].
pub fn xz<R: BufRead>(
    packed: R,
    max_window_log: u32,
    what: impl Fn() -> String,
) -> io::Result<Windowed<XzReader<R>>> {
    Windowed::new(xz_reader(packed, 1 << max_window_log), what)
}

/// A decoder with a window of unpacked bytes. There is one at a time, because of its memory; other streams wait. The
/// window has at most 2 to the power of `max_window_log` bytes; a stream that needs more is an error. `what` waits, for
/// messages.
pub struct Windowed<D> {
    decoder: D,
    _permit: Permit<'static>,
}

impl<D> Windowed<D> {
    fn new(decoder: D, what: impl Fn() -> String) -> io::Result<Self> {
        let permit = WINDOW.acquire(what).map_err(io::Error::other)?;
        Ok(Self {
            decoder,
            _permit: permit,
        })
    }
}

impl<D: Read> Read for Windowed<D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.decoder.read(buffer)
    }
}

/// The compression of the blocks of a squashfs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BlockCompression {
    Zlib,
    Xz,
    Lz4,
    Zstd,
}

impl BlockCompression {
    /// Unpacks a block to at most `limit` bytes.
    pub fn unpack(self, packed: &[u8], limit: usize) -> Result<Vec<u8>, String> {
        let unpacked = match self {
            Self::Zlib => read(ZlibDecoder::new(packed), limit),
            // The window of a block is not larger than the block.
            Self::Xz => read(xz_reader(Cursor::new(packed.to_vec()), 2 * limit), limit),
            Self::Zstd => zstd::bulk::decompress(packed, limit),
            Self::Lz4 => {
                let mut unpacked = vec![0; limit];
                lz4_flex::block::decompress_into(packed, &mut unpacked)
                    .map(|length| {
                        unpacked.truncate(length);
                        unpacked
                    })
                    .map_err(io::Error::other)
            }
        };
        unpacked.map_err(|error| format!("a block cannot be unpacked: {error}"))
    }
}

fn xz_reader<R: Read>(packed: R, max_window: usize) -> XzReader<R> {
    let decoder = XzDecoder::in_heap_with_alloc_dict_size(0, max_window);
    XzReader::new_with_buffer_size_and_decoder(packed, XZ_BUFFER, decoder)
}

fn read(decoder: impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    decoder.take(limit as u64 + 1).read_to_end(&mut unpacked)?;
    if unpacked.len() > limit {
        let why = format!("it unpacks to more than {limit} bytes");
        return Err(io::Error::other(why));
    }
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::GzEncoder;

    use super::*;

    fn gzip_of(bytes: &[u8]) -> Vec<u8> {
        let mut packer = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(bytes).unwrap();
        packer.finish().unwrap()
    }

    fn zstd_of(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 1).unwrap()
    }

    /// A stream, unpacked if it is packed.
    fn open<'a>(bytes: &'a [u8]) -> io::Result<Box<dyn Read + 'a>> {
        match Compression::detect(bytes)? {
            (None, plain) => Ok(Box::new(plain)),
            (Some(Compression::Gzip), packed) => Ok(Box::new(gzip(packed))),
            (_, packed) => Ok(Box::new(zstd(packed, 20, || "a test".into())?)),
        }
    }

    #[test]
    fn every_form_is_told_by_its_first_bytes_and_read_to_its_end() {
        let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"toc"].concat();
        for (packed, expected, why) in [
            (b"one, two".to_vec(), None, "plain"),
            (
                [gzip_of(b"one, "), gzip_of(b"two")].concat(),
                Some(Compression::Gzip),
                "two members",
            ),
            (
                [zstd_of(b"one, "), zstd_of(b"two")].concat(),
                Some(Compression::Zstd),
                "two frames",
            ),
            (
                [skippable.clone(), zstd_of(b"one, two")].concat(),
                Some(Compression::Zstd),
                "a skippable frame first",
            ),
            (
                [
                    zstd_of(b"one, "),
                    skippable.clone(),
                    zstd_of(b"two"),
                    skippable,
                ]
                .concat(),
                Some(Compression::Zstd),
                "skippable frames between and at the end",
            ),
        ] {
            assert_eq!(Compression::of(&packed), expected, "{why}");
            let found = io::read_to_string(open(&packed).unwrap());
            assert_eq!(found.unwrap(), "one, two", "{why}");
        }
    }

    #[test]
    fn a_short_stream_is_not_packed() {
        for short in [&b""[..], b"\x1f", b"\x28\xb5"] {
            let mut found = Vec::new();
            open(short).unwrap().read_to_end(&mut found).unwrap();
            assert_eq!(found, short);
        }
    }

    #[test]
    fn other_compressions_are_called_by_their_names() {
        for (packed, name) in [(&b"\xfd7zXZ\0\0\x04"[..], "xz"), (b"BZh91AY&SY", "bzip2")] {
            assert_eq!(Compression::of(packed).map(Compression::name), Some(name));
        }
        // A tar archive, of a file whose name begins so.
        assert_eq!(Compression::of(b"BZh9.t"), None);
    }

    #[test]
    fn damaged_bytes_are_an_error() {
        for mut packed in [gzip_of(&[7; 1000]), zstd_of(&[7; 1000])] {
            packed.truncate(packed.len() - 3);
            let end = open(&packed).unwrap().read_to_end(&mut Vec::new());
            assert!(end.is_err(), "{packed:x?}");
        }
    }

    #[test]
    fn a_window_larger_than_allowed_is_an_error() {
        let mut packer = zstd::Encoder::new(Vec::new(), 1).unwrap();
        packer.window_log(21).unwrap();
        packer.write_all(&vec![7; 4 << 20]).unwrap();
        let packed = packer.finish().unwrap();
        for (max_window_log, is_good) in [(20, false), (21, true)] {
            let unpacked = zstd(&*packed, max_window_log, String::new);
            let end = unpacked.unwrap().read_to_end(&mut Vec::new());
            assert_eq!(end.is_ok(), is_good, "{max_window_log}: {end:?}");
        }
    }

    #[test]
    fn one_stream_with_a_window_is_unpacked_at_a_time() {
        let packed = zstd_of(b"bytes");
        let read = |stream: Box<dyn Read + '_>| io::read_to_string(stream).unwrap();
        let first = open(&packed).unwrap();
        // A stream without a window goes on.
        assert_eq!(read(open(b"plain").unwrap()), "plain");
        std::thread::scope(|scope| {
            let second = scope.spawn(|| read(open(&packed).unwrap()));
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert!(!second.is_finished(), "a second one is unpacked");
            assert_eq!(read(first), "bytes");
            assert_eq!(second.join().unwrap(), "bytes");
        });
    }
}
