//! A layer's bytes → the tar archive in them.
//!
//! What they are is told by their first bytes, not by the layer's media type: publishers mix them up,
//! and docker-registry hands over what it was given.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

use crate::places::Place;
use crate::pool::WINDOW;

/// So many bytes tell what a layer is.
const MAGIC: usize = 6;
/// Read from the layer at once.
const BUFFER: usize = 64 << 10;
/// Longest look back that a zstd frame may ask for, as a power of two: 32 MiB. docker buildx and buildah ask
/// for that from level 10 on (klauspost/compress, `zstd/encoder_options.go`); zstd itself for 8 MiB, without
/// `--ultra` and `--long`.
const MAX_WINDOW_LOG: u32 = 25;
/// What is read with memory for looking back, which is all that unpacking takes much of.
struct Window<R> {
    inner: R,
    _place: Place<'static>,
}

impl<R: Read> Read for Window<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer)
    }
}

/// The archive in a layer: gzip with all its members, zstd with all its frames, or as it is.
pub fn unpack<'a>(layer: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let (form, whole) = Form::read(layer)?;
    Ok(match form {
        Form::Gzip => Box::new(gzip(whole)),
        Form::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(whole)?;
            decoder.window_log_max(MAX_WINDOW_LOG)?;
            let place = WINDOW.take(|| "a layer of zstd".into());
            Box::new(Window {
                inner: decoder,
                _place: place.map_err(io::Error::other)?,
            })
        }
        Form::Other(name) => {
            let why = format!("it is packed with {name}; layers are gzip, zstd or plain tar");
            return Err(io::Error::other(why));
        }
        Form::Plain => Box::new(whole),
    })
}

/// What is in a layer that is packed with gzip, all members of it.
pub fn gzip<R: BufRead>(layer: R) -> MultiGzDecoder<R> {
    MultiGzDecoder::new(layer)
}

/// How a layer is packed.
#[derive(Debug, PartialEq)]
pub enum Form {
    Gzip,
    Zstd,
    /// Packed as no layer should be, with a program of this name.
    Other(&'static str),
    Plain,
}

impl Form {
    /// The form of a layer by its first bytes, and the layer from its first byte on.
    pub fn read<R: Read>(mut layer: R) -> io::Result<(Self, impl BufRead)> {
        let mut magic = Vec::with_capacity(MAGIC);
        layer.by_ref().take(MAGIC as u64).read_to_end(&mut magic)?;
        let form = Self::of(&magic);
        let whole = BufReader::with_capacity(BUFFER, Cursor::new(magic).chain(layer));
        Ok((form, whole))
    }

    fn of(magic: &[u8]) -> Self {
        match magic {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or one to be skipped (RFC 8878 §3.1): zstd:chunked and pzstd write those first.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Self::Other("xz"),
            // With the first byte after the head, for a tar archive begins with a file's name.
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41] => Self::Other("bzip2"),
            _ => Self::Plain,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
        packer.write_all(bytes).unwrap();
        packer.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 1).unwrap()
    }

    #[test]
    fn every_form_is_told_by_its_first_bytes_and_read_to_its_end() {
        let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"toc"].concat();
        for (packed, why) in [
            (b"one, two".to_vec(), "plain"),
            ([gzip(b"one, "), gzip(b"two")].concat(), "two members"),
            ([zstd(b"one, "), zstd(b"two")].concat(), "two frames"),
            (
                [skippable.clone(), zstd(b"one, two")].concat(),
                "a skippable frame first",
            ),
            (
                [zstd(b"one, "), skippable.clone(), zstd(b"two"), skippable].concat(),
                "skippable frames between and at the end",
            ),
        ] {
            let mut found = Vec::new();
            unpack(&*packed)
                .unwrap()
                .read_to_end(&mut found)
                .unwrap_or_else(|error| panic!("{why}: {error}"));
            assert_eq!(found, b"one, two", "{why}");
        }
    }

    #[test]
    fn a_short_layer_is_no_layer_to_unpack() {
        for short in [&b""[..], b"\x1f", b"\x28\xb5"] {
            let mut found = Vec::new();
            unpack(short).unwrap().read_to_end(&mut found).unwrap();
            assert_eq!(found, short);
        }
    }

    #[test]
    fn what_no_layer_should_be_is_called_by_its_name() {
        for (packed, name) in [(&b"\xfd7zXZ\0\0\x04"[..], "xz"), (b"BZh91AY&SY", "bzip2")] {
            let end = unpack(packed).map(drop);
            let why = end.unwrap_err().to_string();
            assert!(why.contains(&format!("packed with {name};")), "{why}");
        }
        // A tar archive, of a file whose name begins so.
        assert_eq!(Form::of(b"BZh9.t"), Form::Plain);
    }

    #[test]
    fn damaged_bytes_are_an_error() {
        for mut packed in [gzip(&[7; 1000]), zstd(&[7; 1000])] {
            packed.truncate(packed.len() - 3);
            let end = unpack(&*packed).unwrap().read_to_end(&mut Vec::new());
            assert!(end.is_err(), "{packed:x?}");
        }
    }

    #[test]
    fn no_more_layers_look_back_at_once_than_may() {
        let packed = zstd(b"bytes");
        let read = |mut layer: Box<dyn Read + '_>| io::read_to_string(&mut layer).unwrap();
        let first = unpack(&*packed).unwrap();
        // What needs none goes on.
        assert_eq!(read(unpack(&b"plain"[..]).unwrap()), "plain");
        std::thread::scope(|scope| {
            let second = scope.spawn(|| read(unpack(&*packed).unwrap()));
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert!(!second.is_finished(), "a second one is unpacked");
            assert_eq!(read(first), "bytes");
            assert_eq!(second.join().unwrap(), "bytes");
        });
    }
}
