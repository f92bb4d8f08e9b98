//! What was measured: histograms and counts, one set for each kind of operation. Each thread fills one
//! and the coordinator empties it once a second. It knows durations, not clocks.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::workload::Answer;

/// Below this every latency counts as this.
const LATENCY_MIN_NS: u64 = 500;
/// Above this every latency counts as this.
const LATENCY_MAX_NS: u64 = 600_000_000_000;
/// Three significant digits: an error below 0.1 %.
const DIGITS: u8 = 3;
/// Different error texts kept apart; further ones are counted together.
const ERROR_TEXTS_MAX: usize = 20;

/// An empty histogram of nanoseconds.
#[must_use]
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(LATENCY_MIN_NS, LATENCY_MAX_NS, DIGITS)
        .expect("the bounds are constants that fit")
}

/// One kind of operation.
#[derive(Clone, Debug)]
pub struct KindRecord {
    /// From the time at which the operation was due to its answer, in nanoseconds: what a user who does not wait
    /// for others would have seen.
    pub response: Histogram<u64>,
    /// From sending to the answer: what the server took. Equal to `response` in a closed loop.
    pub service: Histogram<u64>,
    /// Operations answered well.
    pub ok: u64,
    /// Operations that failed.
    pub failed: u64,
    /// Keys in the answers.
    pub keys: u64,
    /// Answers that said "not so": a compare that did not hold, a lease that is gone.
    pub refused: u64,
}

impl KindRecord {
    fn new() -> KindRecord {
        KindRecord {
            response: latencies(),
            service: latencies(),
            ok: 0,
            failed: 0,
            keys: 0,
            refused: 0,
        }
    }

    /// Adds what another record holds.
    pub fn add(&mut self, other: &KindRecord) {
        const ALIKE: &str = "all histograms have the same bounds";
        self.response.add(&other.response).expect(ALIKE);
        self.service.add(&other.service).expect(ALIKE);
        self.ok += other.ok;
        self.failed += other.failed;
        self.keys += other.keys;
        self.refused += other.refused;
    }
}

/// All kinds, and why operations failed.
#[derive(Clone, Debug)]
pub struct Record {
    /// In the order of the mix.
    pub kinds: Vec<KindRecord>,
    /// Texts and how often.
    pub errors: BTreeMap<String, u64>,
}

impl Record {
    /// An empty record of `kinds` kinds.
    #[must_use]
    pub fn new(kinds: usize) -> Record {
        Record { kinds: vec![KindRecord::new(); kinds], errors: BTreeMap::new() }
    }

    /// Notes one answered operation.
    pub fn answered(&mut self, kind: usize, response_ns: u64, service_ns: u64, answer: &Answer) {
        let record = &mut self.kinds[kind];
        record.response.saturating_record(response_ns);
        record.service.saturating_record(service_ns);
        record.ok += 1;
        record.keys += answer.keys;
        record.refused += u64::from(answer.compare_failed);
    }

    /// Notes `times` things of the same age that were not asked for one by one.
    pub fn seen(&mut self, kind: usize, age_ns: u64, times: u64) {
        let record = &mut self.kinds[kind];
        record.response.saturating_record_n(age_ns, times);
        record.ok += times;
    }

    /// Notes one failed operation. Its latency is not mixed with those of answers.
    pub fn failed(&mut self, kind: usize, error: &str) {
        self.kinds[kind].failed += 1;
        self.count_error(error, 1);
    }

    /// Notes an operation that was due and could not be sent before the end: its latency is at least its age.
    pub fn unsent(&mut self, kind: usize, age_ns: u64) {
        self.kinds[kind].response.saturating_record(age_ns);
    }

    fn count_error(&mut self, error: &str, times: u64) {
        if let Some(count) = self.errors.get_mut(error) {
            *count += times;
        } else if self.errors.len() < ERROR_TEXTS_MAX {
            self.errors.insert(error.to_owned(), times);
        } else {
            *self.errors.entry("other".to_owned()).or_default() += times;
        }
    }

    /// Adds what another record of the same kinds holds.
    pub fn add(&mut self, other: &Record) {
        for (mine, theirs) in self.kinds.iter_mut().zip(&other.kinds) {
            mine.add(theirs);
        }
        for (error, times) in &other.errors {
            self.count_error(error, *times);
        }
    }

    /// All kinds as one.
    #[must_use]
    pub fn total(&self) -> KindRecord {
        let mut total = KindRecord::new();
        for kind in &self.kinds {
            total.add(kind);
        }
        total
    }

    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        for kind in &mut self.kinds {
            kind.response.reset();
            kind.service.reset();
            (kind.ok, kind.failed, kind.keys, kind.refused) = (0, 0, 0, 0);
        }
        self.errors.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_add_up_and_clear() {
        let mut one = Record::new(2);
        one.answered(0, 2_000_000, 1_000_000, &Answer { keys: 3, ..Answer::default() });
        one.failed(1, "no");
        let mut sum = Record::new(2);
        sum.add(&one);
        sum.add(&one);
        let total = sum.total();
        assert_eq!((total.ok, total.failed, total.keys), (2, 2, 6));
        assert_eq!(sum.errors["no"], 2);
        let p50 = total.response.value_at_quantile(0.5);
        assert!((1_998_000..=2_002_000).contains(&p50), "{p50}");
        sum.clear();
        assert_eq!((sum.total().ok, sum.total().response.len(), sum.errors.len()), (0, 0, 0));
    }

    #[test]
    fn error_texts_are_bounded() {
        let mut record = Record::new(1);
        for i in 0..100 {
            record.failed(0, &format!("error {i}"));
        }
        assert_eq!(record.errors.len(), ERROR_TEXTS_MAX + 1);
        assert_eq!(record.errors["other"], 100 - ERROR_TEXTS_MAX as u64);
    }
}
