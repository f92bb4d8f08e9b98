//! What a run has shown, for people (a line a second, a table) and for scripts (JSON). It computes nothing but
//! quotients, and decides the exit code.

use std::fmt::Write;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use crate::record::KindRecord;
use crate::run::{Job, Measured, Progress};
use crate::schedule::Arrivals;
use crate::verify::Verdict;
use crate::worker::Pacing;

/// A run with everything that is to be told about it.
#[derive(Debug)]
pub struct Report<'a> {
    /// What was asked for.
    pub job: &'a Job,
    /// What was measured.
    pub measured: &'a Measured,
    /// What reading back has shown, if that was asked for.
    pub verdict: Option<&'a Verdict>,
}

/// The line of one second.
#[must_use]
pub fn progress_line(progress: &Progress) -> String {
    let total = progress.record.total();
    let rate = per_second(progress.answered, progress.interval);
    let mut line =
        format!("{:7.1} s {:>9} op/s", progress.since_start.as_secs_f64(), grouped(rate));
    if progress.warming_up {
        line.push_str("  warm-up");
        return line;
    }
    let _ = write!(
        line,
        "  p50 {:>7} ms  p99 {:>7} ms  max {:>7} ms",
        milliseconds(total.response.value_at_quantile(0.5)),
        milliseconds(total.response.value_at_quantile(0.99)),
        milliseconds(total.response.max()),
    );
    if total.failed > 0 {
        let _ = write!(line, "  {} failed", total.failed);
    }
    line
}

impl Report<'_> {
    /// 0 when all is well, 3 when requests failed, 4 when a promise was broken.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let broken = self.verdict.is_some_and(|verdict| !verdict.is_good())
            || self.measured.tally.is_some_and(|tally| !tally.is_good());
        let failed = self.measured.record.kinds.iter().any(|kind| kind.failed > 0)
            || self.measured.outcome.unanswered > 0;
        if broken {
            4
        } else if failed {
            3
        } else {
            0
        }
    }

    /// The result for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = self.heading();
        let _ = writeln!(
            out,
            "{:<24}{:>11}{:>11}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}",
            "", "count", "per s", "failed", "p50 ms", "p90", "p99", "p99.9", "max"
        );
        for (name, kind) in self.rows() {
            if self.is_open() && name != "event" {
                self.row(&mut out, &format!("{name} since due"), &kind, &kind.response);
                self.row(&mut out, &format!("{name} since sent"), &kind, &kind.service);
            } else {
                self.row(&mut out, name, &kind, &kind.response);
            }
        }
        out.push('\n');
        self.costs(&mut out);
        self.judgement(&mut out);
        out
    }

    fn heading(&self) -> String {
        let plan = &self.job.plan;
        let settings = &plan.settings;
        let mut out = format!("{}: ", self.job.names().join(" + "));
        let _ = match plan.pacing {
            Pacing::Closed => write!(out, "closed loop"),
            Pacing::Open { rate_per_s, arrivals } => {
                let spacing = match arrivals {
                    Arrivals::Even => "evenly spaced",
                    Arrivals::Poisson => "Poisson",
                };
                write!(out, "open loop, {} a second, {spacing}", grouped(rate_per_s))
            }
        };
        let _ = write!(
            out,
            ", {} clients on {} connections, {} threads; {:.1} s after {:.1} s of warm-up\n\
             {} keys, values of {} bytes",
            plan.clients,
            plan.conns,
            plan.threads,
            self.measured.window.as_secs_f64(),
            plan.warmup.as_secs_f64(),
            grouped(settings.picker.count() as f64),
            settings.value_len_bytes,
        );
        if let Some(watch) = &self.job.watch {
            let _ = write!(
                out,
                "; {} watchers on {} streams of {} connections, {} threads",
                watch.watchers, watch.streams, watch.conns, watch.threads
            );
        }
        out.push_str("\n\n");
        out
    }

    /// One row a kind, and their sum when there are several alike.
    fn rows(&self) -> Vec<(&'static str, KindRecord)> {
        let names = self.job.names();
        let mut rows: Vec<_> =
            names.iter().copied().zip(self.measured.record.kinds.iter().cloned()).collect();
        if rows.len() > 1 && self.job.watch.is_none() {
            rows.push(("all", self.measured.record.total()));
        }
        rows
    }

    fn row(&self, out: &mut String, name: &str, kind: &KindRecord, latency: &Histogram<u64>) {
        let _ = write!(
            out,
            "{name:<24}{:>11}{:>11}{:>9}",
            kind.ok,
            grouped(per_second(kind.ok, self.measured.window)),
            kind.failed
        );
        for quantile in [0.5, 0.9, 0.99, 0.999] {
            let _ = write!(out, "{:>9}", milliseconds(latency.value_at_quantile(quantile)));
        }
        let _ = writeln!(out, "{:>9}", milliseconds(latency.max()));
    }

    fn costs(&self, out: &mut String) {
        let total = self.measured.record.total();
        if total.keys > 0 {
            let rate = per_second(total.keys, self.measured.window);
            let _ = writeln!(out, "keys in answers {} ({} a second)", total.keys, grouped(rate));
        }
        if total.refused > 0 {
            let _ = writeln!(out, "answers that said no {}", total.refused);
        }
        if let Some(cost) = self.cost() {
            let _ = write!(out, "cpu: {:.1} µs an operation here", cost.own_us);
            if !self.job.server_pids.is_empty() {
                let _ = write!(out, ", {:.1} µs in the server", cost.server_us);
            }
            let _ = writeln!(out, "; others used {:.1} % of a core", cost.foreign_percent);
        }
        for (pid, memory) in self.job.server_pids.iter().zip(&self.measured.resident_kib) {
            if let Some((now, peak)) = memory {
                let _ =
                    writeln!(out, "memory of {pid}: {} MiB, at most {} MiB", now >> 10, peak >> 10);
            }
        }
    }

    fn judgement(&self, out: &mut String) {
        let outcome = &self.measured.outcome;
        for (error, times) in &self.measured.record.errors {
            let _ = writeln!(out, "{times} × {error}");
        }
        if outcome.unanswered > 0 {
            let _ = writeln!(out, "{} requests were never answered", outcome.unanswered);
        }
        if outcome.unsent > 0 {
            let _ = writeln!(
                out,
                "{} requests were due and never sent; the times since due count them as waiting",
                outcome.unsent
            );
        }
        if let Some(tally) = &self.measured.tally {
            let _ = writeln!(
                out,
                "{} watchers were told {} events (warm-up included): {} missed, {} out of order",
                tally.watchers, tally.events, tally.missed, tally.out_of_order
            );
        }
        if let Some(verdict) = self.verdict {
            let _ = writeln!(
                out,
                "read back {} keys: {} lost, {} wrong, {} acknowledgements out of order, {} written by others",
                verdict.keys, verdict.lost, verdict.wrong, verdict.out_of_order, verdict.foreign
            );
            for example in &verdict.examples {
                let _ = writeln!(out, "  {example}");
            }
        }
    }

    /// The result for scripts. Times are in milliseconds unless the name says otherwise.
    #[must_use]
    pub fn json(&self) -> Value {
        let (plan, measured) = (&self.job.plan, self.measured);
        let mut kinds = Map::new();
        for (name, kind) in self.rows() {
            kinds.insert(name.to_owned(), self.kind_json(&kind));
        }
        let rate = match plan.pacing {
            Pacing::Closed => Value::Null,
            Pacing::Open { rate_per_s, .. } => json!(rate_per_s),
        };
        json!({
            "load": {
                "kinds": self.job.names(), "rate": rate,
                "clients": plan.clients, "conns": plan.conns, "threads": plan.threads,
                "keys": plan.settings.picker.count(), "value_bytes": plan.settings.value_len_bytes,
                "endpoints": plan.endpoints, "seed": plan.seed,
                "watchers": self.job.watch.as_ref().map(|watch| watch.watchers),
            },
            "window_s": measured.window.as_secs_f64(),
            "kinds": kinds,
            "cpu": self.cost().map(|cost| json!({
                "own_us_per_op": cost.own_us, "server_us_per_op": cost.server_us,
                "own_s": cost.own_s, "server_s": cost.server_s,
                "foreign_percent": cost.foreign_percent,
            })),
            "resident_kib": measured.resident_kib.iter()
                .map(|memory| memory.map(|(now, _)| now)).collect::<Vec<_>>(),
            "resident_peak_kib": measured.resident_kib.iter()
                .map(|memory| memory.map(|(_, peak)| peak)).collect::<Vec<_>>(),
            "errors": measured.record.errors,
            "unanswered": measured.outcome.unanswered,
            "unsent": measured.outcome.unsent,
            "watch": measured.tally.map(|tally| json!({
                "watchers": tally.watchers, "events": tally.events,
                "missed": tally.missed, "out_of_order": tally.out_of_order,
            })),
            "verify": self.verdict.map(|verdict| json!({
                "keys": verdict.keys, "lost": verdict.lost, "wrong": verdict.wrong,
                "out_of_order": verdict.out_of_order, "foreign": verdict.foreign,
                "good": verdict.is_good(), "examples": verdict.examples,
            })),
        })
    }

    fn kind_json(&self, kind: &KindRecord) -> Value {
        json!({
            "ok": kind.ok, "failed": kind.failed, "keys": kind.keys, "refused": kind.refused,
            "per_s": per_second(kind.ok, self.measured.window),
            "response_ms": quantiles(&kind.response),
            "service_ms": quantiles(&kind.service),
        })
    }

    fn is_open(&self) -> bool {
        self.job.plan.pacing != Pacing::Closed
    }

    /// Processor time by operation; of a fan-out by event, because there the puts hardly count.
    fn cost(&self) -> Option<Cost> {
        let spent = self.measured.spent?;
        let kinds = &self.measured.record.kinds;
        let operations = if self.job.watch.is_some() {
            kinds[crate::watch::EVENTS].ok
        } else {
            kinds.iter().map(|kind| kind.ok + kind.failed).sum()
        };
        let each = |time: Duration| time.as_secs_f64() * 1e6 / operations.max(1) as f64;
        Some(Cost {
            own_us: each(spent.own),
            server_us: each(spent.servers),
            own_s: spent.own.as_secs_f64(),
            server_s: spent.servers.as_secs_f64(),
            foreign_percent: 100.0 * spent.foreign.as_secs_f64()
                / spent.wall.as_secs_f64().max(1e-9),
        })
    }
}

struct Cost {
    own_us: f64,
    server_us: f64,
    own_s: f64,
    server_s: f64,
    foreign_percent: f64,
}

fn quantiles(latency: &Histogram<u64>) -> Value {
    let ms = |quantile| latency.value_at_quantile(quantile) as f64 / 1e6;
    json!({
        "mean": latency.mean() / 1e6, "p50": ms(0.5), "p90": ms(0.9), "p99": ms(0.99),
        "p999": ms(0.999), "max": latency.max() as f64 / 1e6,
    })
}

fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(1e-9)
}

/// Nanoseconds as milliseconds with three digits that count.
fn milliseconds(ns: u64) -> String {
    let ms = ns as f64 / 1e6;
    match ms {
        ..10.0 => format!("{ms:.3}"),
        ..100.0 => format!("{ms:.2}"),
        ..1000.0 => format!("{ms:.1}"),
        _ => format!("{ms:.0}"),
    }
}

/// A whole number with its thousands set apart.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(grouped(0.4), "0");
        assert_eq!(grouped(999.0), "999");
        assert_eq!(grouped(1_234_567.2), "1,234,567");
        assert_eq!(milliseconds(512_345), "0.512");
        assert_eq!(milliseconds(51_234_567), "51.23");
        assert_eq!(milliseconds(2_512_345_678), "2512");
    }
}
