//! The `.hlog` file: one histogram of response times a kind and second, in the format that HdrHistogram's tools
//! read and plot. Values are nanoseconds.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::record::Record;

/// A file that grows by a few lines a second.
pub struct Hlog {
    file: BufWriter<File>,
    serializer: V2DeflateSerializer,
    names: Vec<&'static str>,
}

impl Hlog {
    /// A new file; intervals count from now.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create(path: &Path, names: Vec<&'static str>) -> io::Result<Hlog> {
        let mut file = BufWriter::new(File::create(path)?);
        let mut serializer = V2DeflateSerializer::new();
        IntervalLogWriterBuilder::new()
            .add_comment("[cored-loadgen: response times in nanoseconds]")
            .with_start_time(SystemTime::now())
            .with_base_time(SystemTime::now())
            .begin_log_with(&mut file, &mut serializer)?;
        Ok(Hlog { file, serializer, names })
    }

    /// Adds what was measured in `length` from `start` on.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn append(&mut self, start: Duration, length: Duration, record: &Record) -> io::Result<()> {
        let mut log =
            IntervalLogWriterBuilder::new().begin_log_with(&mut self.file, &mut self.serializer)?;
        for (name, kind) in self.names.iter().zip(&record.kinds) {
            log.write_histogram(&kind.response, start, length, Tag::new(name))
                .map_err(|error| io::Error::other(error.to_string()))?;
        }
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Answer;
    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    #[test]
    fn what_is_written_can_be_read_by_the_format_s_own_reader() {
        let directory = std::env::temp_dir().join(format!("loadgen-hlog-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("a.hlog");
        let mut hlog = Hlog::create(&path, vec!["put", "range"]).unwrap();
        let mut record = Record::new(2);
        record.answered(1, 5_000_000, 4_000_000, &Answer::default());
        hlog.append(Duration::from_secs(1), Duration::from_secs(1), &record).unwrap();
        hlog.append(Duration::from_secs(2), Duration::from_secs(1), &record).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();

        let mut seen = Vec::new();
        for entry in IntervalLogIterator::new(&bytes) {
            let Ok(LogEntry::Interval(interval)) = entry else { continue };
            let bytes = base64_decode(interval.encoded_histogram());
            let histogram: Histogram<u64> = hdrhistogram::serialization::Deserializer::new()
                .deserialize(&mut &bytes[..])
                .unwrap();
            let tag = interval.tag().map(|tag| tag.as_str().to_owned());
            seen.push((tag.unwrap(), interval.start_timestamp().as_secs(), histogram.len()));
        }
        let expected = [("put", 1, 0), ("range", 1, 1), ("put", 2, 0), ("range", 2, 1)];
        assert_eq!(seen, expected.map(|(tag, second, count)| (tag.to_owned(), second, count)));
    }

    /// The standard alphabet with padding; a few lines here save a dependency.
    fn base64_decode(text: &str) -> Vec<u8> {
        let sextet = |byte: u8| match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        let letters = text.trim_end_matches('=').as_bytes();
        let decode = |letters: &[u8]| {
            let bits = letters.iter().fold(0_u32, |bits, &l| bits << 6 | u32::from(sextet(l)));
            let bytes = (bits << (6 * (4 - letters.len()))).to_be_bytes();
            bytes[1..letters.len()].to_vec()
        };
        letters.chunks(4).flat_map(decode).collect()
    }
}
