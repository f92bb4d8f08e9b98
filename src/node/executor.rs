//! A core: a pinned glommio executor, with its door, API and front around the drive loop. The rules
//! that keep glommio safe are kept here; each says why.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use cored_wal::Log;
use cored_wal::disk::direct::DirectDisk;
use glommio::{LocalExecutorBuilder, Placement};

use super::background::Background;
use super::backups::{Backups, Newest};
use super::clock::Clock;
use super::core::{self, Parts};

use super::failure::Failure;
use super::home::Identity;
use super::linger::Linger;
use super::logs;
use super::mesh::Mesh;
use super::room::{Room, Watcher};
use super::shutdown::Shutdown;
use super::watchdog::Pulse;
use crate::api::door::{self, Door};
use crate::api::{Api, Settings};
use crate::config::Config;
use crate::engine::{Engine, LanePast, Message, Past, Setup};
use crate::front::{self, Incoming, Limits, Told};
use crate::keys::{CoreId, LaneId};
use crate::lane::Retained;
use crate::metrics::{self, Facts, Process};
use crate::mvcc::base::Base;
use crate::order::Order;
use crate::watch::HubConfig;

/// The logs above the newest image may have one part in so many of the memory: their versions are in memory, as
/// are those of the image that is being built, and an allocation takes more than what is in it.
const LOG_SHARE: u64 = 8;

/// About how many bytes of keys and values of a moving range one turn hands over.
const PIECE_BYTES: usize = 256 << 10;

/// A preempt timer that goes off at the wrong moment lets an executor sleep with runnable work
/// (glommio/glommio#53). One of an hour practically never does; the watchdog covers the rest.
const PREEMPT_TIMER: Duration = Duration::from_secs(3600);

/// Registered buffers of an executor. The log has its own and sockets use none, so this is the
/// least; the default would pin 30 MiB.
const IO_MEMORY_BYTES: usize = 1 << 20;

/// Unsent bytes of a watch stream above which its watchers fall behind.
const WATCH_WAITING_BYTES_MAX: usize = 4 << 20;

/// About how much history one read for a watcher may bring.
const WATCH_HISTORY_BYTES: usize = 1 << 20;

/// What happens to a member from the outside of its cores.
#[derive(Debug)]
pub(super) enum Event {
    /// One more core serves.
    Serves,
    /// Somebody wants the process to stop.
    Signal(&'static str),
    /// A core has ended.
    Ended(CoreId, Result<(), Failure>),
}

/// What all cores share.
pub(super) struct Shared {
    pub clock: Clock,
    pub order: Arc<Order>,
    /// Bytes of log above the image at the start.
    pub log_bytes: u64,
    /// Memory that this process may use.
    pub memory_bytes: u64,
    pub checkpoint_dir: PathBuf,
    pub newest: Newest,
    pub shutdown: Arc<Shutdown>,
    pub pulses: Arc<[Pulse]>,
    pub metrics: Arc<[Arc<metrics::Core>]>,
    pub identity: Identity,
    pub limits: Limits,
    pub config: Config,
}

/// What one core has for itself.
pub(super) struct Place {
    pub core: CoreId,
    /// The CPU it is pinned to.
    pub cpu: usize,
    /// What earlier epochs left: the memory of the logs, which goes when the last core has installed
    /// it. So nothing that lives longer may hold it.
    pub past: Past,
    /// The image that the past goes on from; held as briefly.
    pub base: Option<Arc<Base>>,
    /// The past of its lanes, ascending.
    pub groups: Vec<(LaneId, LanePast)>,
    pub log: Log<DirectDisk>,
    pub retained: Retained,
    pub mesh: Mesh<Message>,
    pub incoming: Incoming,
    /// For the core that asks for checkpoints.
    pub background: Option<Background>,
    pub room: Room,
}

/// Starts a core's thread. However it ends, it tells `events`.
///
/// # Errors
/// The thread can not be started.
pub(super) fn start(
    shared: Arc<Shared>,
    place: Place,
    events: Sender<Event>,
) -> Result<(), Failure> {
    let core = place.core;
    let report = Report { core, events, ended: None };
    LocalExecutorBuilder::new(Placement::Fixed(place.cpu))
        .name(&format!("core-{}", core.0))
        .preempt_timer(PREEMPT_TIMER)
        .io_memory(IO_MEMORY_BYTES)
        .spin_before_park(shared.config.spin)
        .spawn(move || async move {
            let mut report = report;
            let ended = live(&shared, place, report.events.clone()).await;
            let failed = |source| Failure::Log { log: core.0, source };
            report.ended = Some(ended.map_err(failed));
        })
        .map(drop)
        .map_err(|error| Failure::System {
            what: format!("start core {}", core.0),
            source: std::io::Error::other(error.to_string()),
        })
}

/// Says how a core ended, also when it panicked or never came to run.
struct Report {
    core: CoreId,
    events: Sender<Event>,
    ended: Option<Result<(), Failure>>,
}

impl Drop for Report {
    fn drop(&mut self) {
        let ended = self.ended.take().unwrap_or(Err(Failure::Defect(self.core.0)));
        // Nobody listens any more when the process ends anyway.
        let _ = self.events.send(Event::Ended(self.core, ended));
    }
}

async fn live(
    shared: &Arc<Shared>,
    place: Place,
    events: Sender<Event>,
) -> Result<(), cored_wal::Error> {
    let Place { core, past, base, groups, log, retained, mesh, incoming, .. } = place;
    let Identity { cluster, member, lanes, .. } = shared.identity;
    let door = Door::new(door::Identity { cluster_id: cluster, member_id: member });
    let metrics = Arc::clone(&shared.metrics[usize::from(core.0)]);
    let salt = logs::salt(core.0);
    let backups = Rc::new(Backups::new(shared.checkpoint_dir.clone(), shared.newest.clone()));
    let api =
        Api::new(settings(shared), Rc::clone(&door), Some(backups), Arc::clone(&metrics), salt);
    let engine = Engine::new(Setup {
        core,
        cores: shared.config.cores,
        lanes,
        member,
        order: Arc::clone(&shared.order),
        past,
        groups,
        base,
        log_bytes: shared.log_bytes,
        checkpoint_bytes: shared.config.checkpoint_wal_bytes,
        checkpoint_bytes_max: shared.memory_bytes / LOG_SHARE,
        piece_bytes: PIECE_BYTES,
        hub: HubConfig {
            cluster_id: cluster,
            member_id: member,
            max_request_bytes: shared.config.max_request_bytes,
            progress_notify_ms: u64::try_from(shared.config.watch_progress_interval.as_millis())
                .unwrap_or(u64::MAX),
            waiting_bytes_max: WATCH_WAITING_BYTES_MAX,
            history_bytes: WATCH_HISTORY_BYTES,
        },
        auto_compaction: shared.config.auto_compaction,
    });
    let linger = Rc::new(Linger::new(mesh.ear(), Rc::clone(&door)));
    let front_config = front::Config {
        limits: shared.limits.clone(),
        metrics: page(shared, &door),
        vars: vars(shared),
        told: told(Arc::clone(&metrics)),
        times: shared.config.metrics_extensive,
        linger: {
            let linger = Rc::clone(&linger);
            Box::new(move |fd| linger.wait_for(fd))
        },
    };
    let shutdown = Arc::clone(&shared.shutdown);
    let serves = move || {
        // Connections that came before wait in `incoming`.
        let queue = glommio::executor().current_task_queue();
        let serve = async move {
            front::serve(front_config, incoming, api).await;
            shutdown.front_is_closed(usize::from(core.0));
        };
        let task = glommio::spawn_local_into(serve, queue);
        task.expect("the queue of a running task exists").detach();
        // The supervisor is gone only when the process ends.
        let _ = events.send(Event::Serves);
    };
    core::drive(Parts {
        engine,
        log,
        retained,
        mesh,
        door,
        linger,
        background: place.background,
        room: Watcher::new(place.room),
        clock: shared.clock,
        shutdown: Arc::clone(&shared.shutdown),
        pulses: Arc::clone(&shared.pulses),
        core: usize::from(core.0),
        metrics,
        serves: Some(Box::new(serves)),
    })
    .await
}

fn settings(shared: &Shared) -> Settings {
    let config = &shared.config;
    let list = |urls: &[crate::config::Url]| urls.iter().map(ToString::to_string).collect();
    // etcd counts in ticks: half as many again as an election takes, in whole seconds.
    let ticks = config.election.as_millis() / config.heartbeat.as_millis();
    let least_ms = ticks * 3 / 2 * config.heartbeat.as_millis();
    Settings {
        max_request_bytes: config.max_request_bytes,
        max_txn_ops: config.max_txn_ops,
        name: config.name.clone(),
        peer_urls: list(&config.advertise_peer_urls),
        client_urls: list(&config.advertise_client_urls),
        quota_bytes: config.quota_bytes,
        usage: Arc::clone(shared.order.usage()),
        min_lease_ttl_s: i64::try_from(least_ms.div_ceil(1000)).unwrap_or(i64::MAX),
    }
}

/// The text of `/metrics`, with what every core counted.
fn page(shared: &Arc<Shared>, door: &Rc<Door>) -> Box<dyn Fn() -> String> {
    let (shared, door) = (Arc::clone(shared), Rc::clone(door));
    Box::new(move || {
        for (core, pulse) in shared.metrics.iter().zip(shared.pulses.iter()) {
            core.kicks.set(pulse.kicks());
        }
        let facts = Facts {
            member_id: shared.identity.member,
            serves: shared.order.epoch() != 0,
            revision: shared.order.watermark().0,
            pending: door.in_flight() as u64,
            quota_bytes: shared.config.quota_bytes,
            extensive: shared.config.metrics_extensive,
            process: Process::read(),
        };
        metrics::page(&shared.metrics, &facts)
    })
}

/// The text of `/debug/vars`: what Go's expvar shows of every program.
fn vars(shared: &Arc<Shared>) -> Box<dyn Fn() -> String> {
    let shared = Arc::clone(shared);
    Box::new(move || {
        let arguments: Vec<String> =
            std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
        let turns: u64 = shared.metrics.iter().map(|core| core.turns.get()).sum();
        let vars = serde_json::json!({ "cmdline": arguments, "cored": { "turns": turns } });
        format!("{vars}\n")
    })
}

/// Counts what the front tells.
fn told(core: Arc<metrics::Core>) -> Rc<dyn Fn(Told)> {
    Rc::new(move |told| match told {
        Told::Started { method } => core.calls[method].started.add(1),
        Told::Handled { method, code } => core.calls[method].handled[code as usize].add(1),
        Told::Took { method, took } => core.calls[method].took.observe(took),
        Told::MessageReceived { method } => core.calls[method].received.add(1),
        Told::MessageSent { method } => core.calls[method].sent.add(1),
        Told::BytesReceived { count } => core.client_received_bytes.add(count as u64),
        Told::BytesSent { count } => core.client_sent_bytes.add(count as u64),
    })
}
