//! Requests by the version of etcd's client that they come from. Versions are whatever clients say,
//! so only so many are told apart.

use std::sync::OnceLock;

use super::Number;

/// Versions that are told apart; later ones count as unknown.
const VERSIONS_MAX: usize = 15;

/// The longest version that is one.
const VERSION_BYTES_MAX: usize = 16;

/// What requests of a client that does not say its version count as.
const UNKNOWN: &str = "unknown";

/// Counters of one core.
#[derive(Debug, Default)]
pub struct Clients {
    unknown: Counts,
    known: [(OnceLock<Box<str>>, Counts); VERSIONS_MAX],
}

#[derive(Debug, Default)]
struct Counts {
    unary: Number,
    stream: Number,
}

impl Clients {
    /// Counts a request, or a stream that was opened.
    pub fn count(&self, version: Option<&str>, is_stream: bool) {
        let counts = version.and_then(|version| self.counts(version)).unwrap_or(&self.unknown);
        if is_stream { counts.stream.add(1) } else { counts.unary.add(1) }
    }

    fn counts(&self, version: &str) -> Option<&Counts> {
        for (known, counts) in &self.known {
            match known.get() {
                Some(known) if **known == *version => return Some(counts),
                Some(_) => {}
                None if is_version(version) => {
                    // Only one core writes here, so nobody was faster.
                    known.get_or_init(|| version.into());
                    return Some(counts);
                }
                None => return None,
            }
        }
        None
    }

    /// Every count that is not 0: version, `unary` or `stream`, count.
    pub(super) fn each(&self) -> impl Iterator<Item = (&str, &'static str, u64)> {
        let known = self.known.iter().filter_map(|(name, counts)| Some((&**name.get()?, counts)));
        let all = known.chain([(UNKNOWN, &self.unknown)]);
        all.flat_map(|(name, counts)| {
            [(name, "stream", counts.stream.get()), (name, "unary", counts.unary.get())]
        })
        .filter(|(_, _, count)| *count > 0)
    }
}

fn is_version(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b".-+".contains(&byte);
    (1..=VERSION_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart_up_to_a_bound() {
        let clients = Clients::default();
        for version in [None, Some("3.7"), Some("3.7"), Some("x\"y"), Some(""), Some("3.5.9")] {
            clients.count(version, false);
        }
        clients.count(Some("3.7"), true);
        let all: Vec<_> = clients.each().collect();
        let expected = [
            ("3.7", "stream", 1),
            ("3.7", "unary", 2),
            ("3.5.9", "unary", 1),
            ("unknown", "unary", 3),
        ];
        assert_eq!(all, expected);
        for n in 0..1000 {
            clients.count(Some(&format!("9.{n}")), false);
        }
        assert_eq!(clients.each().count(), VERSIONS_MAX + 2);
        assert_eq!(clients.each().map(|(_, _, count)| count).sum::<u64>(), 1007);
    }
}
