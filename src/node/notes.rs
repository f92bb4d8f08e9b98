//! Lines of the log for what engines note, in etcd's words where etcd has them.

use cored_proto::etcdserverpb::AlarmType;

use crate::config::Retention;
use crate::engine::{Note, Step};

/// Logs a note.
pub(super) fn log(note: Note) {
    match note {
        Note::Alarm { alarm, on } => {
            let from = format!("{:x}", alarm.member_id);
            let alarm = match AlarmType::try_from(alarm.alarm) {
                Ok(known) => known.as_str_name().to_owned(),
                Err(_) => alarm.alarm.to_string(),
            };
            if on {
                tracing::warn!(alarm, from, "alarm raised");
            } else {
                tracing::warn!(alarm, from, "alarm disarmed");
            }
        }
        Note::Corrupt { fault } => tracing::error!(error = %fault, "found a damaged checkpoint"),
        Note::AutoCompaction { at, retention: Retention::Period { ms }, step } => {
            let (revision, period) = (at.0, go_duration(ms));
            match step {
                Step::Starting => tracing::info!(
                    revision,
                    "compact-period" = period,
                    "starting auto periodic compaction"
                ),
                Step::Completed { took_ms } => tracing::info!(
                    revision,
                    "compact-period" = period,
                    took = go_duration(took_ms),
                    "completed auto periodic compaction"
                ),
                Step::Failed { error, retry_ms } => tracing::warn!(
                    revision,
                    "compact-period" = period,
                    "retry-interval" = go_duration(retry_ms),
                    %error,
                    "failed auto periodic compaction"
                ),
            }
        }
        Note::AutoCompaction { at, retention: Retention::Revisions(kept), step } => {
            let revision = at.0;
            match step {
                Step::Starting => tracing::info!(
                    revision,
                    "revision-compaction-retention" = kept,
                    "starting auto revision compaction"
                ),
                Step::Completed { took_ms } => tracing::info!(
                    revision,
                    "revision-compaction-retention" = kept,
                    took = go_duration(took_ms),
                    "completed auto revision compaction"
                ),
                Step::Failed { error, retry_ms } => tracing::warn!(
                    revision,
                    "revision-compaction-retention" = kept,
                    "retry-interval" = go_duration(retry_ms),
                    %error,
                    "failed auto revision compaction"
                ),
            }
        }
    }
}

/// A duration as Go prints it: `1h0m0s`, `1m30s`, `2.5s`, `12ms`, `0s`.
fn go_duration(ms: u64) -> String {
    if ms == 0 {
        return "0s".to_owned();
    }
    if ms < 1000 {
        return format!("{ms}ms");
    }
    let (hours, minutes, rest_ms) = (ms / 3_600_000, ms / 60_000 % 60, ms % 60_000);
    let seconds = rest_ms as f64 / 1000.0;
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_printed_as_go_prints_them() {
        let printed =
            [0, 12, 2500, 3000, 90_000, 3_600_000, 86_400_000, 3_661_001].map(go_duration);
        let expected = ["0s", "12ms", "2.5s", "3s", "1m30s", "1h0m0s", "24h0m0s", "1h1m1.001s"];
        assert_eq!(printed, expected);
    }
}
