//! Chance that can be repeated: the same seed throws the same dice.

use std::ops::Range;
use std::time::Duration;

/// xorshift64*, <https://www.jstatsoft.org/article/view/v008i14>.
pub struct Dice(u64);

impl Dice {
    /// The dice of one thread: every purpose has its own, so that threads do not disturb each other's.
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mut dice = Dice((seed ^ purpose.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1);
        for _ in 0..16 {
            dice.throw(); // neighbouring seeds begin alike
        }
        dice
    }

    fn throw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    pub fn from(&mut self, range: Range<u64>) -> u64 {
        range.start + self.throw() % (range.end - range.start)
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.from(0..100) < chance
    }

    pub fn milliseconds(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.from(range))
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        let n = self.from(0..items.len() as u64);
        &items[usize::try_from(n).unwrap()]
    }

    /// Bytes that no compression makes smaller.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            // The lowest of the 53 bits that throw gives are as good as the others.
            bytes.extend_from_slice(&self.throw().to_le_bytes()[..6]);
        }
        bytes.truncate(count);
        bytes
    }
}
