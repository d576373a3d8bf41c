//! The buffers of a connection. They are small for documents, and a large one is taken for a body that arrives fast.
//!
//! Each read of a blob costs a system call and a wake-up of the sender, so a large buffer makes a download cheaper
//! (measured in `docs/performance.md`). All connections, and the clients that the blobs are sent to, share the memory of
//! large buffers. A connection without one goes on with its small one.

use ureq::unversioned::transport::Buffers;

use crate::memory::{Held, LARGE_BUFFER, LARGE_BUFFERS};

/// Reads in a row that filled a small buffer, after which a large one is taken. A burst is no fast body.
const FULL_READS: u32 = 4;

/// The buffers of one connection. None has memory before it is needed.
#[derive(Debug)]
pub struct GrowingBuffers {
    input: Vec<u8>,
    /// The range of the input that was read and not consumed.
    start: usize,
    end: usize,
    output: Vec<u8>,
    /// Bytes of the small input buffer, and of the output buffer.
    input_size: usize,
    output_size: usize,
    /// Reads in a row that filled the small buffer.
    full_reads: u32,
    /// The input was consumed after the last read, at least in part.
    progress: bool,
    /// The memory of the input buffer, if it is a large one.
    large: Option<Held>,
}

impl GrowingBuffers {
    /// Buffers of these sizes in bytes, as long as documents arrive.
    pub fn new(input_size: usize, output_size: usize) -> Self {
        Self {
            input: Vec::new(),
            start: 0,
            end: 0,
            output: Vec::new(),
            input_size,
            output_size,
            full_reads: 0,
            progress: false,
            large: None,
        }
    }

    /// Gives the memory of the output back: it was sent.
    pub fn sent(&mut self) {
        self.output = Vec::new();
    }

    /// Gives all memory back: the connection waits for its next request. Input that was not consumed stays.
    pub fn release(&mut self) {
        self.output = Vec::new();
        if self.start == self.end {
            self.input = Vec::new();
            (self.start, self.end, self.full_reads) = (0, 0, 0);
            self.large = None;
        }
    }

    /// Makes room for input, of which all that was not consumed is kept.
    fn make_room(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.full_reads >= FULL_READS && self.large.is_none() {
                self.large = LARGE_BUFFERS.take(LARGE_BUFFER);
                if self.large.is_some() {
                    self.input = vec![0; LARGE_BUFFER];
                }
            }
        }
        if self.input.len() < self.input_size {
            self.input.resize(self.input_size, 0);
        }
        if self.end == self.input.len() && self.start > 0 {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }

    fn make_output(&mut self) {
        if self.output.is_empty() {
            self.output = vec![0; self.output_size];
        }
    }
}

impl Buffers for GrowingBuffers {
    fn output(&mut self) -> &mut [u8] {
        self.make_output();
        &mut self.output
    }

    fn input(&self) -> &[u8] {
        &self.input[self.start..self.end]
    }

    fn input_append_buf(&mut self) -> &mut [u8] {
        self.make_room();
        &mut self.input[self.end..]
    }

    fn input_appended(&mut self, amount: usize) {
        self.end += amount;
        let is_full = self.start == 0 && self.end == self.input.len();
        self.full_reads = if is_full {
            self.full_reads.saturating_add(1)
        } else {
            0
        };
    }

    fn input_consume(&mut self, amount: usize) {
        self.progress = amount > 0;
        self.start += amount;
    }

    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        self.make_room();
        self.make_output();
        (&mut self.input[self.end..], &mut self.output)
    }

    fn can_use_input(&self) -> bool {
        self.start < self.end && self.progress
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads as much as the buffers take, at most `most`; returns that.
    fn read(buffers: &mut GrowingBuffers, most: usize, next: &mut u8) -> usize {
        let free = buffers.input_append_buf();
        let amount = free.len().min(most);
        for byte in &mut free[..amount] {
            *byte = *next;
            *next = next.wrapping_add(1);
        }
        buffers.input_appended(amount);
        amount
    }

    #[test]
    fn bytes_stay_in_order_however_they_are_read_and_consumed() {
        let mut buffers = GrowingBuffers::new(8, 4);
        let (mut next, mut expected) = (0, 0_u8);
        for step in 1..2000_usize {
            if buffers.input().len() < 8 {
                read(&mut buffers, step % 11 + 1, &mut next);
            }
            let taken = (step * 7 % 13).min(buffers.input().len());
            for byte in &buffers.input()[..taken] {
                assert_eq!(*byte, expected, "step {step}");
                expected = expected.wrapping_add(1);
            }
            buffers.input_consume(taken);
        }
    }

    #[test]
    fn a_head_that_does_not_fit_finds_no_room() {
        let mut buffers = GrowingBuffers::new(8, 4);
        assert_eq!(read(&mut buffers, 8, &mut 0), 8);
        buffers.input_consume(0);
        assert!(!buffers.can_use_input());
        assert!(buffers.input_append_buf().is_empty());
        assert_eq!(buffers.input().len(), 8);
    }

    #[test]
    fn a_large_buffer_is_taken_for_a_fast_body_and_given_back_after_it() {
        let mut buffers = GrowingBuffers::new(8, 4);
        read(&mut buffers, 7, &mut 0);
        buffers.input_consume(7);
        assert_eq!(
            buffers.input_append_buf().len(),
            8,
            "the last read was short"
        );
        for _ in 0..FULL_READS {
            assert_eq!(buffers.input_append_buf().len(), 8, "a burst");
            read(&mut buffers, 8, &mut 0);
            buffers.input_consume(8);
        }
        assert_eq!(buffers.input_append_buf().len(), LARGE_BUFFER);
        read(&mut buffers, 5, &mut 0);
        buffers.release();
        assert_eq!(buffers.input().len(), 5, "input stays");
        buffers.input_consume(5);
        buffers.release();
        assert!(buffers.large.is_none() && buffers.input.is_empty() && buffers.output.is_empty());
        assert_eq!(buffers.input_append_buf().len(), 8);
        assert_eq!(buffers.output().len(), 4);
    }
}
