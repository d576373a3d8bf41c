//! Unpacking, with a limit on what comes of it. No I/O of its own.

use std::io::{self, Read};
use std::num::NonZeroUsize;

use flate2::read::{MultiGzDecoder, ZlibDecoder};
use xz4rust::{XzDecoder, XzReader};

/// Largest window that is kept for unpacking a stream. `xz -9` and `zstd --ultra` ask for more.
const MAX_WINDOW: usize = 16 << 20;
/// The same for zstd, which counts in powers of two.
const MAX_WINDOW_LOG: u32 = MAX_WINDOW.ilog2();
/// What the unpacker of xz reads at once.
const XZ_BUFFER: NonZeroUsize = NonZeroUsize::new(8 << 10).expect("it is not zero");

/// How a whole file is packed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Packing {
    Gzip,
    Xz,
    Zstd,
    Bzip2,
}

impl Packing {
    /// By its first bytes.
    pub fn of(head: &[u8]) -> Option<Self> {
        // A frame to be skipped (RFC 8878 §3.1.2), which zstd:chunked and pzstd write first.
        if let [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] = head {
            return Some(Self::Zstd);
        }
        let magics: [(&[u8], Self); 4] = [
            (&[0x1f, 0x8b], Self::Gzip),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], Self::Xz),
            (&[0x28, 0xb5, 0x2f, 0xfd], Self::Zstd),
            (b"BZh", Self::Bzip2),
        ];
        let found = magics.iter().find(|(magic, _)| head.starts_with(magic))?;
        Some(found.1)
    }
}

/// What is in a stream that is packed, or the stream itself.
pub fn stream(packing: Option<Packing>, body: Box<dyn Read>) -> Result<Box<dyn Read>, String> {
    match packing {
        None => Ok(body),
        Some(Packing::Gzip) => Ok(Box::new(MultiGzDecoder::new(body))),
        Some(Packing::Xz) => Ok(Box::new(xz(body, MAX_WINDOW))),
        Some(Packing::Zstd) => {
            let mut unpacked = zstd::Decoder::new(body).map_err(|error| error.to_string())?;
            unpacked
                .window_log_max(MAX_WINDOW_LOG)
                .map_err(|error| error.to_string())?;
            Ok(Box::new(unpacked))
        }
        Some(Packing::Bzip2) => Err("it is packed with bzip2, which is not unpacked here".into()),
    }
}

/// How blocks of a file system are packed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    Zlib,
    Xz,
    Lz4,
    Zstd,
}

/// A block, of which come `limit` bytes at most.
pub fn block(method: Method, packed: &[u8], limit: usize) -> Result<Vec<u8>, String> {
    let found = match method {
        Method::Zlib => read(ZlibDecoder::new(packed), limit),
        // The window of a block is never larger than what comes of it.
        Method::Xz => read(xz(io::Cursor::new(packed.to_vec()), 2 * limit), limit),
        Method::Zstd => zstd::bulk::decompress(packed, limit).map_err(|error| error.to_string()),
        Method::Lz4 => {
            let mut unpacked = vec![0; limit];
            lz4_flex::block::decompress_into(packed, &mut unpacked)
                .map_err(|error| error.to_string())
                .map(|n| {
                    unpacked.truncate(n);
                    unpacked
                })
        }
    };
    found.map_err(|why| format!("a block cannot be unpacked: {why}"))
}

fn xz<R: Read + 'static>(body: R, window: usize) -> XzReader<R> {
    let decoder = XzDecoder::in_heap_with_alloc_dict_size(0, window);
    XzReader::new_with_buffer_size_and_decoder(body, XZ_BUFFER, decoder)
}

fn read(unpacker: impl Read, limit: usize) -> Result<Vec<u8>, String> {
    let mut unpacked = Vec::new();
    unpacker
        .take(limit as u64 + 1)
        .read_to_end(&mut unpacked)
        .map_err(|error| error.to_string())?;
    if unpacked.len() > limit {
        return Err(format!("more than {limit} bytes come of it"));
    }
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zstd_stream_may_begin_with_a_frame_to_be_skipped() {
        let skippable = [0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, b't', b'o', b'c'];
        let frame = zstd::encode_all(&b"tar"[..], 1).unwrap();
        let packed = [&skippable[..], &frame].concat();
        let packing = Packing::of(&packed);
        assert_eq!(packing, Some(Packing::Zstd));
        let body = Box::new(io::Cursor::new(packed));
        let unpacked = io::read_to_string(stream(packing, body).unwrap()).unwrap();
        assert_eq!(unpacked, "tar");
    }
}
