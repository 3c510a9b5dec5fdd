//! Chance that a seed repeats.

use std::time::Duration;

/// xorshift64*: small, and the same everywhere.
pub struct Chance(u64);

impl Chance {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Chance {
        // Zero would give nothing but zeros.
        Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }

    /// Waits for less than so many milliseconds.
    pub fn moment(&mut self, longest: u64) {
        std::thread::sleep(Duration::from_millis(self.below(longest)));
    }
}
