//! System images, and whatever else calls itself one.

use std::cell::Cell;
use std::io::{Cursor, Read};
use std::ops::Range;

use crate::digest::Digest;
use crate::dissect::{self, Origin};
use crate::error::Result;
use crate::source::Part;

/// Asked for in all of one image. Ranges are asked for one at a time and are never empty, so what is
/// read is bounded by this and by the size of one.
const MAX_REQUESTS: usize = 4096;

/// No image makes us ask for bytes that it has not, or without end; the same bytes say the same, by
/// ranges and as a stream.
pub fn images(data: &[u8]) {
    let by_ranges = metadata(data, true);
    assert_eq!(by_ranges, metadata(data, true));
    let as_a_stream = metadata(data, false);
    // Where a limit is reached, a stream may reach another one.
    if let (Ok(one), Ok(other)) = (&by_ranges, &as_a_stream) {
        assert_eq!(one, other);
    }
}

fn metadata(data: &[u8], has_ranges: bool) -> Result<String, String> {
    let origin = InMemory {
        data,
        has_ranges,
        requests: Cell::new(0),
    };
    let name = "image-1.raw".parse().unwrap();
    let (digest, size) = (Digest::of(data), data.len() as u64);
    dissect::metadata(&origin, digest, size, None, &name)
        .map(|found| found.json("image-1.raw"))
        .map_err(|error| error.line())
}

struct InMemory<'a> {
    data: &'a [u8],
    has_ranges: bool,
    requests: Cell<usize>,
}

impl Origin for InMemory<'_> {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn source(&self) -> String {
        self.name()
    }

    fn part(&self, range: Range<u64>) -> Result<Part> {
        self.requests.set(self.requests.get() + 1);
        assert!(self.requests.get() <= MAX_REQUESTS, "it asks without end");
        assert!(range.start < range.end, "{range:?}");
        if !self.has_ranges {
            return self.whole().map(Part::Whole);
        }
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        let bytes = self.data.get(range.clone());
        let size = self.data.len();
        Ok(Part::Range(
            (bytes.unwrap_or_else(|| panic!("{range:?} of {size} bytes"))).to_vec(),
        ))
    }

    fn whole(&self) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(Cursor::new(self.data.to_vec())))
    }
}
