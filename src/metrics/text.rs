//! The Prometheus text format, version 0.0.4. It knows no series.

use std::fmt::Write as _;

use super::histogram::Summed;

/// What a series is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Counter,
    Gauge,
    Histogram,
}

/// A page being written.
#[derive(Default)]
pub(super) struct Text(String);

impl Text {
    /// Begins a family: all of its samples follow.
    pub(super) fn family(&mut self, name: &str, kind: Type, help: &str) {
        let kind = match kind {
            Type::Counter => "counter",
            Type::Gauge => "gauge",
            Type::Histogram => "histogram",
        };
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("into a String");
    }

    /// One sample.
    pub(super) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        self.labels(labels);
        writeln!(self.0, " {}", number(value)).expect("into a String");
    }

    /// The samples of a histogram.
    pub(super) fn histogram(&mut self, name: &str, labels: &[(&str, &str)], summed: &Summed) {
        let bounds = summed.bounds.iter().map(|ns| number(*ns as f64 / 1e9));
        let bucket = format!("{name}_bucket");
        for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(&summed.counts) {
            let mut labels = labels.to_vec();
            labels.push(("le", &bound));
            self.sample(&bucket, &labels, *count as f64);
        }
        let count = *summed.counts.last().expect("the infinite bucket is always there");
        self.sample(&format!("{name}_sum"), labels, summed.sum_s);
        self.sample(&format!("{name}_count"), labels, count as f64);
    }

    pub(super) fn finish(self) -> String {
        self.0
    }

    fn labels(&mut self, labels: &[(&str, &str)]) {
        for (n, (name, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let before = if n == 0 { '{' } else { ',' };
            write!(self.0, "{before}{name}=\"{value}\"").expect("into a String");
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
    }
}

/// A number as Go's Prometheus client writes it: shortest, with an exponent below 1e-4 and from
/// 1e+06 on, so that pages of both servers compare line by line.
pub(super) fn number(value: f64) -> String {
    if !value.is_finite() {
        return match (value.is_nan(), value > 0.0) {
            (true, _) => "NaN".to_owned(),
            (_, true) => "+Inf".to_owned(),
            (_, false) => "-Inf".to_owned(),
        };
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').expect("what {:e} writes");
    let exponent: i32 = exponent.parse().expect("what {:e} writes");
    if value == 0.0 || (-4..6).contains(&exponent) {
        return format!("{value}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}
