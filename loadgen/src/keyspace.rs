//! Which key an operation touches: the shape of the key names and the ways to draw one.
//! It knows numbers and bytes, not requests.

use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::random::Random;

/// How key names look: a prefix, then the key's number in decimal, padded with zeros to a fixed length.
///
/// Byte order is number order, so a range of keys is a range of numbers.
#[derive(Clone, Debug)]
pub struct KeyNames {
    prefix: Vec<u8>,
    digits: usize,
}

impl KeyNames {
    /// Names of `len_bytes` bytes for the numbers `0..=count`; the last one is only ever an end of a range.
    ///
    /// # Errors
    /// When the digits left beside the prefix cannot count that far.
    pub fn new(prefix: &str, len_bytes: usize, count: u64) -> Result<KeyNames, String> {
        let digits = len_bytes.saturating_sub(prefix.len());
        let needed = count.max(1).ilog10() as usize + 1;
        if digits < needed {
            return Err(format!(
                "{count} keys need {needed} digits, but --key-size {len_bytes} leaves {digits} beside the prefix"
            ));
        }
        Ok(KeyNames { prefix: prefix.as_bytes().to_vec(), digits })
    }

    /// The number of the key with this name, if it is one of ours.
    #[must_use]
    pub fn number(&self, name: &[u8]) -> Option<u64> {
        let digits = name.strip_prefix(&self.prefix[..])?;
        let ours = digits.len() == self.digits && digits.iter().all(u8::is_ascii_digit);
        if ours { std::str::from_utf8(digits).ok()?.parse().ok() } else { None }
    }

    /// The name of key `number`.
    #[must_use]
    pub fn name(&self, mut number: u64) -> Vec<u8> {
        let mut name = Vec::with_capacity(self.prefix.len() + self.digits);
        name.extend_from_slice(&self.prefix);
        name.resize(self.prefix.len() + self.digits, b'0');
        for digit in name[self.prefix.len()..].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        name
    }
}

/// The ways to draw a key number, as the command line names them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// Every key alike.
    Uniform,
    /// The key of rank k is drawn in proportion to 1/k^exponent; ranks are scattered over the numbers.
    Zipf {
        /// How steep: 0.99 is the usual choice.
        exponent: f64,
    },
    /// One after the other, shared by all clients, from 0 again after the last.
    Sequential,
    /// Most draws fall on the first few numbers, which share a prefix; the others are uniform.
    Hot {
        /// Draws of 100 that fall on the hot keys.
        percent: f64,
        /// How many keys are hot.
        keys: u64,
    },
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Shape, String> {
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let arguments: Vec<&str> = parts.collect();
        match (name, arguments.as_slice()) {
            ("uniform", []) => Ok(Shape::Uniform),
            ("sequential", []) => Ok(Shape::Sequential),
            ("zipf", rest @ ([] | [_])) => {
                let exponent = argument(rest.first(), 0.99)?;
                if exponent > 0.0 && exponent <= 10.0 {
                    Ok(Shape::Zipf { exponent })
                } else {
                    Err(format!("the exponent of {text} must be above 0 and at most 10"))
                }
            }
            ("hot" | "hot-prefix", rest @ ([] | [_] | [_, _])) => {
                let percent = argument(rest.first(), 90.0)?;
                let keys = argument(rest.get(1), 1000)?;
                if (0.0..=100.0).contains(&percent) && keys > 0 {
                    Ok(Shape::Hot { percent, keys })
                } else {
                    Err(format!("{text}: per cent from 0 to 100, then at least one key"))
                }
            }
            _ => Err(format!(
                "{text} is none of uniform, zipf[:exponent], sequential, hot-prefix[:percent[:keys]]"
            )),
        }
    }
}

fn argument<T: FromStr>(text: Option<&&str>, default: T) -> Result<T, String> {
    text.map_or(Ok(default), |text| text.parse().map_err(|_| format!("{text} is not a number")))
}

/// Draws key numbers in `0..count`. Clones share the sequential counter and nothing else.
#[derive(Clone, Debug)]
pub struct KeyPicker {
    shape: Shape,
    count: u64,
    next: Arc<AtomicU64>,
    zipf: Option<Zipf>,
    /// Odd and without a common factor with `count`: multiplying by it scatters the ranks and meets no number twice.
    scatter: u64,
}

impl KeyPicker {
    /// A picker among `count` keys (at least one).
    #[must_use]
    pub fn new(shape: Shape, count: u64) -> KeyPicker {
        let count = count.max(1);
        let zipf = match shape {
            Shape::Zipf { exponent } => Some(Zipf::new(count, exponent)),
            _ => None,
        };
        // The golden ratio spreads neighbours best; the next number prime to `count` is as good.
        let mut scatter = ((count as f64 * 0.618_033_988_749_895) as u64) | 1;
        while greatest_common_divisor(scatter, count) != 1 {
            scatter += 2;
        }
        KeyPicker { shape, count, next: Arc::default(), zipf, scatter }
    }

    /// How many keys there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The next numbers in order, at most `keys` of them, until each has been taken once.
    pub fn take_run(&self, keys: u64) -> Option<Range<u64>> {
        let start = self.next.fetch_add(keys.max(1), Ordering::Relaxed);
        (start < self.count).then(|| start..(start + keys.max(1)).min(self.count))
    }

    /// The next key number.
    pub fn pick(&self, random: &mut Random) -> u64 {
        match (self.shape, &self.zipf) {
            (Shape::Sequential, _) => self.next.fetch_add(1, Ordering::Relaxed) % self.count,
            (Shape::Zipf { .. }, Some(zipf)) => {
                let rank = zipf.draw(random) - 1;
                ((u128::from(rank) * u128::from(self.scatter)) % u128::from(self.count)) as u64
            }
            (Shape::Hot { percent, keys }, _) if random.unit() * 100.0 < percent => {
                random.below(keys.min(self.count))
            }
            _ => random.below(self.count),
        }
    }
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Ranks 1..=n in proportion to 1/k^s, by rejection from the integral of the curve (Hörmann and
/// Derflinger 1996): constant memory and time whatever n is, where a table would need n entries.
#[derive(Clone, Debug)]
struct Zipf {
    n: f64,
    s: f64,
    integral_first: f64,
    integral_last: f64,
    /// A draw this close to its rank is accepted without computing the curve.
    squeeze: f64,
}

impl Zipf {
    fn new(n: u64, s: f64) -> Zipf {
        let mut zipf =
            Zipf { n: n as f64, s, integral_first: 0.0, integral_last: 0.0, squeeze: 0.0 };
        zipf.integral_first = zipf.integral(1.5) - 1.0;
        zipf.integral_last = zipf.integral(zipf.n + 0.5);
        zipf.squeeze = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.curve(2.0));
        zipf
    }

    fn draw(&self, random: &mut Random) -> u64 {
        loop {
            let u = self.integral_last + random.unit() * (self.integral_first - self.integral_last);
            let x = self.inverse(u);
            let rank = (x + 0.5).floor().clamp(1.0, self.n);
            if rank - x <= self.squeeze || u >= self.integral(rank + 0.5) - self.curve(rank) {
                return rank as u64;
            }
        }
    }

    /// x^-s.
    fn curve(&self, x: f64) -> f64 {
        (-self.s * x.ln()).exp()
    }

    /// The integral of the curve, 0 at x = 1; written so that s = 1 is no special case.
    fn integral(&self, x: f64) -> f64 {
        let log_x = x.ln();
        exp_m1_over(log_x * (1.0 - self.s)) * log_x
    }

    fn inverse(&self, y: f64) -> f64 {
        // Rounding may carry the argument just below -1, where the logarithm ends.
        let t = (y * (1.0 - self.s)).max(-1.0);
        (ln_1p_over(t) * y).exp()
    }
}

/// (e^x − 1) / x, 1 at 0.
fn exp_m1_over(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.exp_m1() / x } else { 1.0 + x / 2.0 }
}

/// ln(1 + x) / x, 1 at 0.
fn ln_1p_over(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.ln_1p() / x } else { 1.0 - x / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_length_and_sort_as_their_numbers() {
        let names = KeyNames::new("k/", 8, 999_999).unwrap();
        assert_eq!(names.name(0), b"k/000000");
        assert_eq!(names.name(42), b"k/000042");
        assert!(names.name(9) < names.name(10));
        assert_eq!(names.number(b"k/000042"), Some(42));
        for foreign in [&b"k/00042"[..], b"j/000042", b"k/00004x", b"k/+00042"] {
            assert_eq!(names.number(foreign), None);
        }
        assert!(KeyNames::new("k/", 8, 1_000_000).is_err());
        assert!(KeyNames::new("a long prefix", 8, 1).is_err());
    }

    #[test]
    fn shapes_are_read_with_their_defaults() {
        assert_eq!("uniform".parse(), Ok(Shape::Uniform));
        assert_eq!("zipf".parse(), Ok(Shape::Zipf { exponent: 0.99 }));
        assert_eq!("zipf:1.2".parse(), Ok(Shape::Zipf { exponent: 1.2 }));
        assert_eq!("hot:80:10".parse(), Ok(Shape::Hot { percent: 80.0, keys: 10 }));
        assert_eq!("hot-prefix".parse(), Ok(Shape::Hot { percent: 90.0, keys: 1000 }));
        for wrong in ["", "zip", "zipf:x", "zipf:0", "uniform:1", "hot:101", "hot:1:0", "hot:1:2:3"]
        {
            assert!(wrong.parse::<Shape>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn sequential_visits_every_key_once_a_round_across_clients() {
        let one = KeyPicker::new(Shape::Sequential, 5);
        let other = one.clone();
        let mut random = Random::new(0, 0);
        let picks: Vec<u64> = (0..10)
            .map(|i| if i % 2 == 0 { one.pick(&mut random) } else { other.pick(&mut random) })
            .collect();
        assert_eq!(picks, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]);
    }

    #[test]
    fn hot_draws_fall_on_the_first_keys() {
        let picker = KeyPicker::new(Shape::Hot { percent: 90.0, keys: 10 }, 100_000);
        let mut random = Random::new(3, 0);
        let hot = (0..10_000).filter(|_| picker.pick(&mut random) < 10).count();
        assert!((8_850..9_150).contains(&hot), "{hot}");
    }

    #[test]
    fn zipf_draws_follow_the_curve() {
        for s in [0.5, 0.99, 1.0, 1.5] {
            let n = 50;
            let zipf = Zipf::new(n, s);
            let mut random = Random::new(11, 0);
            let draws = 200_000;
            let mut seen = vec![0_f64; n as usize + 1];
            for _ in 0..draws {
                seen[zipf.draw(&mut random) as usize] += 1.0;
            }
            let sum: f64 = (1..=n).map(|k| (k as f64).powf(-s)).sum();
            for k in 1..=n {
                let expected = draws as f64 * (k as f64).powf(-s) / sum;
                let error = (seen[k as usize] - expected).abs();
                assert!(error < 5.0 * expected.sqrt(), "s {s}, rank {k}: {error} of {expected}");
            }
        }
    }

    #[test]
    fn scattering_keeps_every_key_reachable() {
        for count in [1, 2, 7, 10, 1000] {
            let picker = KeyPicker::new(Shape::Zipf { exponent: 0.99 }, count);
            let mut hit = vec![false; count as usize];
            for rank in 0..count {
                hit[((rank * picker.scatter) % count) as usize] = true;
            }
            assert!(hit.iter().all(|&h| h), "{count}");
        }
    }
}
