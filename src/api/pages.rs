//! What the plain pages say of the member's health and version, with etcd's names for the checks.
//! Which HTTP methods reach them, and how the bytes travel, is the front's business.

use std::fmt::Write as _;
use std::rc::Rc;

use cored_proto::etcdserverpb as pb;

use super::maintenance::{alarm_name, is_raised};
use super::status::{Code, Status};
use super::{Api, ETCD_CLUSTER_VERSION, ETCD_VERSION};
use crate::metrics;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// A page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The HTTP status.
    pub status: u16,
    /// The `Content-Type`.
    pub content_type: &'static str,
    /// What it says.
    pub body: String,
}

/// Something that must hold for a member to be alive or ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
        }
    }
}

const LIVE: &[Check] = &[Check::SerializableRead];
const READY: &[Check] =
    &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

impl Api {
    /// What `path` shows, if it is one of the pages that tell how the member is.
    pub async fn page(self: Rc<Api>, path: String, query: String) -> Option<Page> {
        match path.as_str() {
            "/health" => Some(self.health_page(&query).await),
            "/version" => Some(version_page()),
            _ => {
                let (root, check) = match path.strip_prefix('/')?.split_once('/') {
                    None => (&path[1..], None),
                    Some((root, check)) => (root, Some(check)),
                };
                let all = match root {
                    "livez" => LIVE,
                    "readyz" => READY,
                    _ => return None,
                };
                let wanted: Vec<Check> = match check {
                    Some(name) => vec![*all.iter().find(|check| check.name() == name)?],
                    None => {
                        let excluded: Vec<String> = values(&query, "exclude").collect();
                        let stays = |check: &&Check| !excluded.iter().any(|x| x == check.name());
                        all.iter().filter(stays).copied().collect()
                    }
                };
                let verbose = values(&query, "verbose").next().is_some();
                Some(self.checks_page(root, &wanted, verbose).await)
            }
        }
    }

    /// As etcd: alarms first, then the leader, then a read.
    async fn health_page(&self, query: &str) -> Page {
        let serializable = values(query, "serializable").next().as_deref() == Some("true");
        let excluded: Vec<String> = values(query, "exclude").collect();
        let status = self.ask_status().await.map(|(_, status)| status).unwrap_or_default();
        let matters = |name: &str| !excluded.iter().any(|excluded| excluded == name);
        let alarm = status.alarms.iter().find(|alarm| matters(&alarm_name(alarm.alarm)));
        let reason = if let Some(alarm) = alarm {
            let known = pb::AlarmType::try_from(alarm.alarm);
            Some(format!("ALARM {}", known.map_or("UNKNOWN", |known| known.as_str_name())))
        } else if !serializable && !status.serves {
            Some("RAFT NO LEADER".to_owned())
        } else {
            let failed = self.read(serializable).await.err();
            failed.map(|status| format!("RANGE ERROR:{}", status.message))
        };
        let healthy = reason.is_none();
        let counts = &self.metrics.health;
        if healthy {
            counts.success.add(1)
        } else {
            counts.error.add(1)
        }
        let mut body = serde_json::json!({
            "health": if healthy { "true" } else { "false" },
            "reason": reason.unwrap_or_default(),
        })
        .to_string();
        if !healthy {
            body.push('\n');
        }
        Page { status: if healthy { 200 } else { 503 }, content_type: TEXT, body }
    }

    async fn checks_page(&self, root: &str, checks: &[Check], verbose: bool) -> Page {
        let (mut lines, mut status) = (String::new(), 200);
        for &check in checks {
            let result = self.holds(check).await;
            self.count(root, check, result.is_ok());
            let line = match result {
                Ok(()) => writeln!(lines, "[+]{} ok", check.name()),
                Err(error) => {
                    status = 503;
                    writeln!(lines, "[-]{} failed: {}", check.name(), error.message)
                }
            };
            line.expect("a String grows");
        }
        let body = match (status, verbose) {
            (200, true) => lines + "ok\n",
            (200, false) => "ok\n".to_owned(),
            // The list of a failure ends with an empty line.
            _ => lines + "\n",
        };
        Page { status, content_type: TEXT, body }
    }

    fn count(&self, root: &str, check: Check, holds: bool) {
        let at = metrics::CHECKS.iter().position(|known| *known == (root, check.name()));
        let counts = &self.metrics.checks[at.expect("every check of a page is counted")];
        if holds { counts.success.add(1) } else { counts.error.add(1) }
    }

    async fn holds(&self, check: Check) -> Result<(), Status> {
        match check {
            Check::SerializableRead => self.read(true).await,
            Check::LinearizableRead => self.read(false).await,
            Check::DataCorruption => {
                let status = self.ask_status().await.map(|(_, status)| status).unwrap_or_default();
                let corrupt = pb::AlarmType::Corrupt;
                if is_raised(&status.alarms, corrupt) {
                    let message = format!("alarm activated: {}", corrupt.as_str_name());
                    return Err(Status { code: Code::DataLoss, message: message.into() });
                }
                Ok(())
            }
            // Learners do not exist yet.
            Check::NonLearner => Ok(()),
        }
    }

    async fn read(&self, serializable: bool) -> Result<(), Status> {
        let key = bytes::Bytes::from_static(b"\0");
        let range =
            pb::RangeRequest { key, limit: 1, keys_only: true, serializable, ..Default::default() };
        self.ask_range(range).await.map(drop)
    }
}

fn version_page() -> Page {
    let body = serde_json::json!({
        "etcdserver": ETCD_VERSION,
        "etcdcluster": ETCD_CLUSTER_VERSION,
        "storage": ETCD_CLUSTER_VERSION,
    });
    Page { status: 200, content_type: JSON, body: body.to_string() }
}

/// The values of a name in a query string, with their percent signs and pluses resolved.
fn values<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = String> + 'a {
    query.split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (unescape(key)? == name).then_some(())?;
        unescape(value)
    })
}

/// `None` for what is no proper escape, which Go leaves out of the query too.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
                let proper = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
                bytes.push(proper.then(|| u8::from_str_radix(digits, 16).ok())??);
                rest = &rest[2..];
            }
            other => bytes.push(*other),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests;
