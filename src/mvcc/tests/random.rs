//! Numbers from a seed (splitmix64), so that a failed test can be repeated.

pub(in crate::mvcc) struct Random(u64);

impl Random {
    pub(in crate::mvcc) fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `n`.
    pub(in crate::mvcc) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(in crate::mvcc) fn percent(&mut self, share: usize) -> bool {
        self.below(100) < share
    }
}
