//! Reads one open file in several places at once.

use std::borrow::Borrow;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// Reads a file at a position of its own.
#[derive(Debug)]
pub struct Positioned<F> {
    file: F,
    at: u64,
}

impl<F: Borrow<File>> Positioned<F> {
    /// Begins at the first byte.
    pub fn new(file: F) -> Self {
        Self::at(file, 0)
    }

    /// Begins at this byte.
    pub fn at(file: F, at: u64) -> Self {
        Self { file, at }
    }

    /// Fills the buffer with the bytes at an offset, whatever the position.
    pub fn read_exact_at(&self, buffer: &mut [u8], from: u64) -> io::Result<()> {
        self.file.borrow().read_exact_at(buffer, from)
    }
}

impl<F: Borrow<File>> Read for Positioned<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.borrow().read_at(buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}
