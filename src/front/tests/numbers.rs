//! Pseudo-random numbers from a seed (xorshift), so that a failing test can be run again.

/// A stream of numbers.
pub(in crate::front) struct Numbers(u64);

impl Numbers {
    pub(in crate::front) fn new(seed: u64) -> Numbers {
        Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(in crate::front) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(in crate::front) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }
}
