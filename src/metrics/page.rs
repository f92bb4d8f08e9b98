//! The page that a scraper reads: every series that is true for this member, families in
//! alphabetical order as etcd's, without labels that etcd's series do not have, since dashboards
//! match exact label sets.

use std::collections::BTreeMap;
use std::sync::Arc;

use cored_proto::{Kind, METHODS, Method};

use super::histogram::Histogram;
use super::process::Process;
use super::text::{Text, Type};
use super::{CHECKS, CODES, Calls, Checked, Core, Number};

/// What only the engine and the node know, asked when the page is written.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// This member's number.
    pub member_id: u64,
    /// Whether the member serves: then it also leads, being alone.
    pub serves: bool,
    /// The current revision.
    pub revision: i64,
    /// Requests that wait for an answer.
    pub pending: u64,
    /// `--quota-backend-bytes`.
    pub quota_bytes: i64,
    /// Whether times of calls are wanted (`--metrics extensive`).
    pub extensive: bool,
    /// The operating system's view.
    pub process: Process,
}

/// The names of the gRPC codes, by number.
const CODE_NAMES: [&str; CODES] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// Writes the page.
#[must_use]
pub fn page(cores: &[Arc<Core>], facts: &Facts) -> String {
    let mut page = Page { text: Text::default(), cores };
    page.own(facts);
    page.etcd(facts);
    page.grpc(facts.extensive);
    page.system(&facts.process);
    page.text.finish()
}

struct Page<'a> {
    text: Text,
    cores: &'a [Arc<Core>],
}

impl Page<'_> {
    fn own(&mut self, facts: &Facts) {
        let longest = self.cores.iter().map(|core| core.turn_longest.get()).max().unwrap_or(0);
        self.counted("cored_core_kicks_total", "Times a core had to be woken.", |c| &c.kicks);
        self.counted("cored_core_slow_turns_total", "Turns longer than 1 ms.", |c| &c.slow_turns);
        self.gauge(
            "cored_core_turn_longest_seconds",
            "The longest turn of any core since the start.",
            longest as f64 / 1e9,
        );
        self.counted("cored_core_turns_total", "Turns of the cores.", |c| &c.turns);
        self.gauge("cored_cores", "Cores in use.", self.cores.len() as f64);
        self.gauge("cored_requests_in_flight", "Requests without an answer.", facts.pending as f64);
        self.histogram(
            "cored_wal_commit_duration_seconds",
            "Durable group writes, fine buckets.",
            |core| &core.wal_fsync_fine,
        );
        self.counted("cored_wal_groups_total", "Groups written to the logs.", |c| &c.wal_groups);
        self.counted(
            "cored_wal_segment_waits_total",
            "Groups that waited for a new segment.",
            |core| &core.wal_segment_waits,
        );
    }

    fn etcd(&mut self, facts: &Facts) {
        let name = "etcd_cluster_version";
        self.text.family(name, Type::Gauge, "The cluster version, as a label.");
        self.text.sample(name, &[("cluster_version", "3.7")], 1.0);
        self.counted("etcd_debugging_lease_granted_total", "Leases granted.", |c| {
            &c.leases_granted
        });
        self.counted("etcd_debugging_lease_renewed_total", "Leases kept alive.", |c| {
            &c.leases_renewed
        });
        self.counted("etcd_debugging_lease_revoked_total", "Leases revoked.", |c| {
            &c.leases_revoked
        });
        let compacted = self.cores.iter().map(|core| core.compacted.get()).max().unwrap_or(0);
        self.gauge(
            "etcd_debugging_mvcc_compact_revision",
            "The revision of the last compaction, -1 before any.",
            if compacted > 0 { compacted as f64 } else { -1.0 },
        );
        self.gauge(
            "etcd_debugging_mvcc_current_revision",
            "The current revision.",
            facts.revision as f64,
        );
        let name = "etcd_debugging_mvcc_db_compaction_keys_total";
        self.counted(name, "Versions removed by compaction.", |c| &c.collected);
        self.summed_gauge("etcd_debugging_mvcc_keys_total", "Keys.", |c| &c.keys);
        self.summed_gauge("etcd_debugging_mvcc_watch_stream_total", "Watch streams.", |c| {
            &c.watch_streams
        });
        let name = "etcd_debugging_server_lease_expired_total";
        self.counted(name, "Leases that ran out.", |c| &c.leases_expired);
        self.disk();
        self.server(facts);
    }

    fn disk(&mut self) {
        self.histogram(
            "etcd_disk_wal_fsync_duration_seconds",
            "Durable group writes of the logs.",
            |core| &core.wal_fsync,
        );
        self.summed_gauge("etcd_disk_wal_write_bytes_total", "Bytes written to the logs.", |c| {
            &c.wal_bytes
        });
        let name = "etcd_mvcc_db_total_size_in_bytes";
        self.summed_gauge(name, "Bytes allocated for the store.", |c| &c.db_bytes);
        let name = "etcd_mvcc_db_total_size_in_use_in_bytes";
        self.summed_gauge(name, "Bytes of the store in use.", |c| &c.db_in_use_bytes);
        self.counted("etcd_mvcc_delete_total", "Deletes seen.", |core| &core.deletes);
        self.counted("etcd_mvcc_put_total", "Puts seen.", |core| &core.puts);
        self.counted("etcd_mvcc_range_total", "Ranges seen.", |core| &core.ranges);
        self.counted("etcd_mvcc_txn_total", "Transactions seen.", |core| &core.txns);
        self.counted("etcd_network_client_grpc_received_bytes_total", "Bytes from clients.", |c| {
            &c.client_received_bytes
        });
        self.counted("etcd_network_client_grpc_sent_bytes_total", "Bytes to clients.", |c| {
            &c.client_sent_bytes
        });
    }

    fn server(&mut self, facts: &Facts) {
        let serves = f64::from(u8::from(facts.serves));
        let name = "etcd_server_client_requests_total";
        self.text.family(name, Type::Counter, "Requests by version of the client.");
        let mut clients = BTreeMap::new();
        for (version, kind, count) in self.cores.iter().flat_map(|core| core.clients.each()) {
            *clients.entry((version, kind)).or_insert(0) += count;
        }
        for ((version, kind), count) in clients {
            let labels = [("client_api_version", version), ("type", kind)];
            self.text.sample(name, &labels, count as f64);
        }
        self.gauge("etcd_server_has_leader", "Whether there is a leader.", serves);
        self.counted("etcd_server_health_failures", "Failures of /health.", |c| &c.health.error);
        self.counted("etcd_server_health_success", "Successes of /health.", |c| &c.health.success);
        self.checks();
        let name = "etcd_server_id";
        self.text.family(name, Type::Gauge, "The member's number, as a label.");
        self.text.sample(name, &[("server_id", &format!("{:x}", facts.member_id))], 1.0);
        self.gauge("etcd_server_is_leader", "Whether this member leads.", serves);
        self.gauge("etcd_server_is_learner", "Whether this member is a learner.", 0.0);
        self.counter("etcd_server_leader_changes_seen_total", "Leader changes seen.", serves);
        let name = "etcd_server_proposals_applied_total";
        self.summed_gauge(name, "Entries applied, all lanes together.", |c| &c.raft_applied);
        let name = "etcd_server_proposals_committed_total";
        self.summed_gauge(name, "Entries committed, all lanes together.", |c| &c.raft_committed);
        self.counted("etcd_server_proposals_failed_total", "Proposals that failed.", |c| {
            &c.proposals_failed
        });
        self.gauge(
            "etcd_server_proposals_pending",
            "Requests that wait for an answer.",
            facts.pending as f64,
        );
        let quota = facts.quota_bytes as f64;
        self.gauge("etcd_server_quota_backend_bytes", "The quota of the store.", quota);
        let name = "etcd_server_version";
        self.text.family(name, Type::Gauge, "The compatible version of etcd, as a label.");
        self.text.sample(name, &[("server_version", crate::config::ETCD_VERSION)], 1.0);
    }

    /// A check that was never made is not there, as in etcd.
    fn checks(&mut self) {
        let name = "etcd_server_healthchecks_total";
        self.text.family(name, Type::Counter, "Parts of /livez and /readyz, by result.");
        for (at, (kind, check)) in CHECKS.into_iter().enumerate() {
            type Result = (&'static str, fn(&Checked) -> &Number);
            let results: [Result; 2] =
                [("error", |checked| &checked.error), ("success", |checked| &checked.success)];
            for (status, number) in results {
                let parts = self.cores.iter().map(|core| number(&core.checks[at]).get());
                let count: u64 = parts.sum();
                if count > 0 {
                    let labels = [("name", check), ("status", status), ("type", kind)];
                    self.text.sample(name, &labels, count as f64);
                }
            }
        }
    }

    fn grpc(&mut self, extensive: bool) {
        let mut order: Vec<usize> = (0..METHODS.len()).collect();
        order.sort_by_key(|at| (METHODS[*at].name, METHODS[*at].service));
        let mut codes: Vec<usize> = (0..CODES).collect();
        codes.sort_by_key(|code| CODE_NAMES[*code]);
        let name = "grpc_server_handled_total";
        self.text.family(name, Type::Counter, "Calls that ended, with their code.");
        for code in codes {
            for &at in &order {
                let sum = self.calls(at, |calls| &calls.handled[code]);
                let mut labels = vec![("grpc_code", CODE_NAMES[code])];
                labels.extend(method_labels(&METHODS[at]));
                self.text.sample(name, &labels, sum);
            }
        }
        if extensive {
            let name = "grpc_server_handling_seconds";
            self.text.family(name, Type::Histogram, "How long calls took.");
            for &at in &order {
                let parts = self.cores.iter().map(|core| &core.calls[at].took);
                if let Some(summed) = Histogram::sum(parts) {
                    self.text.histogram(name, &method_labels(&METHODS[at]), &summed);
                }
            }
        }
        type Family = (&'static str, &'static str, fn(&Calls) -> &Number);
        let families: [Family; 3] = [
            ("grpc_server_msg_received_total", "Messages received.", |calls| &calls.received),
            ("grpc_server_msg_sent_total", "Messages sent.", |calls| &calls.sent),
            ("grpc_server_started_total", "Calls that began.", |calls| &calls.started),
        ];
        for (name, help, number) in families {
            self.text.family(name, Type::Counter, help);
            for &at in &order {
                let sum = self.calls(at, number);
                self.text.sample(name, &method_labels(&METHODS[at]), sum);
            }
        }
    }

    fn system(&mut self, process: &Process) {
        let (open, max) = (process.open_fds as f64, process.max_fds as f64);
        self.gauge("os_fd_limit", "How many descriptors may be open.", max);
        self.gauge("os_fd_used", "Open descriptors.", open);
        self.counter("process_cpu_seconds_total", "CPU time.", process.cpu_seconds);
        self.gauge("process_max_fds", "How many descriptors may be open.", max);
        let (received, sent) = (process.received_bytes, process.transmitted_bytes);
        let name = "process_network_receive_bytes_total";
        self.counter(name, "Bytes received over the network.", received as f64);
        let name = "process_network_transmit_bytes_total";
        self.counter(name, "Bytes sent over the network.", sent as f64);
        self.gauge("process_open_fds", "Open descriptors.", open);
        let resident = process.resident_bytes as f64;
        self.gauge("process_resident_memory_bytes", "Memory in use.", resident);
        let started = process.start_time_seconds;
        self.gauge("process_start_time_seconds", "Start, in seconds since 1970.", started);
        let size = process.virtual_bytes as f64;
        self.gauge("process_virtual_memory_bytes", "Address space.", size);
    }

    fn calls(&self, at: usize, number: impl Fn(&Calls) -> &Number) -> f64 {
        self.cores.iter().map(|core| number(&core.calls[at]).get()).sum::<u64>() as f64
    }

    fn counted(&mut self, name: &str, help: &str, number: impl Fn(&Core) -> &Number) {
        let sum: u64 = self.cores.iter().map(|core| number(core).get()).sum();
        self.counter(name, help, sum as f64);
    }

    fn summed_gauge(&mut self, name: &str, help: &str, number: impl Fn(&Core) -> &Number) {
        let sum: u64 = self.cores.iter().map(|core| number(core).get()).sum();
        self.gauge(name, help, sum as f64);
    }

    fn histogram(&mut self, name: &str, help: &str, part: impl Fn(&Core) -> &Histogram) {
        self.text.family(name, Type::Histogram, help);
        if let Some(summed) = Histogram::sum(self.cores.iter().map(|core| part(core))) {
            self.text.histogram(name, &[], &summed);
        }
    }

    fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.text.family(name, Type::Counter, help);
        self.text.sample(name, &[], value);
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.text.family(name, Type::Gauge, help);
        self.text.sample(name, &[], value);
    }
}

fn method_labels(method: &'static Method) -> [(&'static str, &'static str); 3] {
    let kind = match method.kind {
        Kind::Unary => "unary",
        Kind::ServerStream => "server_stream",
        Kind::ClientStream => "client_stream",
        Kind::BidiStream => "bidi_stream",
    };
    [("grpc_method", method.name), ("grpc_service", method.service), ("grpc_type", kind)]
}
