//! A member's life: look at the machine, take the data directory, read the logs, start an executor
//! on each core, serve, and stop in order. This is the only room where the parts are put together;
//! what they do is theirs.
//!
//! ```text
//! run          this thread: starts everything, then waits for signals and for cores that end
//! executor     a core: its door, API and front around the drive loop (core)
//! mesh         between cores            shutdown   how they stop together
//! linger       waits for a lone client in place        wakeup     and is interrupted
//! watchdog     wakes executors that sleep too long
//! home, logs   the data directory, its identity, the logs of all cores
//! checkpoints  its images                    background  the thread that builds them
//! mapped       files that are read where they are mapped   room  kept for a disk that is full
//! limits       what the machine must give            failure    exit codes
//! ```

mod background;
mod backups;
mod checkpoints;
mod clock;
mod core;
mod eventfd;
mod executor;
mod failure;
mod files;
mod home;
pub mod limits;
mod linger;
pub mod logging;
mod logs;
mod mapped;
mod mesh;
mod notes;
pub mod restore;
mod room;
mod shutdown;
mod signals;
mod systemd;
pub mod verify;
mod wakeup;
mod watchdog;

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::config::{Config, ETCD_VERSION, Url, VERSION};
use crate::engine::{Ground, Recovery, STOP_MS};
use crate::front::{Acceptor, Limits, bind};
use crate::keys::{CoreId, LaneId};
use crate::metrics;
use crate::order::Order;
use background::Background;
use checkpoints::Checkpoints;
use clock::Clock;
use executor::{Event, Place, Shared};
use home::Home;
use mesh::Mesh;
use room::Room;
use shutdown::Shutdown;
use watchdog::{Pulse, Watchdog};

pub use failure::{DEFECT, Failure};

/// Lanes of a new data directory when nobody says how many: as many as cores, at most these.
const LANES_DEFAULT_MAX: u16 = 16;

/// How long calls may go on once the member stops.
const GRACE: Duration = Duration::from_secs(5);

/// How long the cores have after that to come to rest and to close their logs: a last checkpoint, and as
/// long again.
const REST: Duration = Duration::from_millis(2 * STOP_MS);

/// Descriptors kept for everything but connections.
const FILES_RESERVED: u64 = 256;

/// Runs a member until a signal ends it. To be called once, before the process has started a thread.
///
/// # Errors
/// Why it could not start, or had to stop. What it acknowledged is safe.
pub fn run(config: Config) -> Result<(), Failure> {
    limits::register_membarrier();
    signals::block();
    let machine = limits::check(config.cores)?;
    // Before the logs are read: a port that is taken should not take minutes to be noticed.
    let listeners = listen(&config.listen_client_urls)?;
    let mut home = Home::open(&config, LANES_DEFAULT_MAX)?;
    let identity = home.identity().clone();
    let wal_bytes = config.checkpoint_wal_bytes;
    let (room, minder) = Room::open(&config.data_dir, &config.wal_dir, config.cores, wal_bytes);
    let read_began = Instant::now();
    let huge_pages = limits::allow_huge_pages(false);
    let checkpoints = Checkpoints::open(&config.data_dir, &identity)?;
    let ground = checkpoints.ground()?;
    refuse_unguarded(&config.data_dir, &ground)?;
    let base = checkpoints.newest().map(|found| Arc::clone(&found.base));
    let logs = logs::open(&mut home, &config.wal_dir, config.cores, &ground, base.as_ref())?;
    limits::allow_huge_pages(huge_pages);
    banner(&config, &identity, &machine);
    tracing::info!(
        records = logs.records,
        bytes = logs.bytes,
        took = ?read_began.elapsed(),
        "read the logs"
    );

    let files = usize::try_from(machine.nofile.saturating_sub(FILES_RESERVED)).unwrap_or(0);
    let limits = front_limits(&config, files);
    let (events, received) = mpsc::channel();
    let meshes = Mesh::new(config.cores);
    let bell = meshes[0].bell();
    let waiting = meshes[0].bell();
    let system = |what: &str| {
        let what = what.to_owned();
        move |source| Failure::System { what, source }
    };
    let checkpoint_dir = checkpoints.path().to_owned();
    let ring = meshes[0].bell();
    minder
        .start(move || ring.ring())
        .map_err(system("start the thread that minds the room on the disk"))?;
    let ring = meshes[0].bell();
    let background = Background::start(checkpoints, room.clone(), move || ring.ring())
        .map_err(system("start the thread that builds checkpoints"))?;
    let shared = Arc::new(Shared {
        clock: Clock::start(),
        order: Arc::new(Order::new(identity.lanes, config.cores)),
        log_bytes: logs.recovery.bytes,
        memory_bytes: limits::memory_bytes(),
        checkpoint_dir,
        newest: background.newest(),
        shutdown: Shutdown::new(config.cores, move || bell.ring()),
        pulses: (0..config.cores).map(|_| Pulse::default()).collect::<Arc<[Pulse]>>(),
        metrics: (0..config.cores).map(|_| Arc::new(metrics::Core::default())).collect(),
        identity,
        limits,
        config,
    });
    let cores = usize::from(shared.config.cores);
    let (acceptor, incoming) = Acceptor::start(listeners, cores, shared.limits.connections_max)
        .map_err(system("start a thread that accepts connections"))?;
    let signalled = events.clone();
    signals::watch(move |name| drop(signalled.send(Event::Signal(name))))
        .map_err(system("start the thread that waits for signals"))?;
    let pulses = Arc::clone(&shared.pulses);
    let _watchdog = Watchdog::start(pulses, shared.clock, move |core| waiting.is_waiting(core))
        .map_err(system("start the watchdog"))?;

    let mut background = Some(background);
    let Recovery { past, lanes, .. } = logs.recovery;
    let mut lanes: Vec<_> = (0..).map(LaneId).zip(lanes).collect();
    let places = limits::cpus();
    let opened = logs.open.into_iter().zip(logs.retained);
    for (((number, (log, retained)), mesh), incoming) in (0..).zip(opened).zip(meshes).zip(incoming)
    {
        // Lane k lives on core k modulo the number of cores.
        let own = |(lane, _): &mut (LaneId, _)| lane.0 % shared.config.cores == number;
        let groups: Vec<_> = lanes.extract_if(.., own).collect();
        let place = Place {
            core: CoreId(number),
            cpu: places[usize::from(number) % places.len()],
            past: past.clone(),
            base: base.clone(),
            groups,
            log,
            retained,
            mesh,
            incoming,
            // The keeper of the checkpoints lives on the first core.
            background: background.take(),
            room: room.clone(),
        };
        executor::start(Arc::clone(&shared), place, events.clone())?;
    }
    drop((events, past, base));
    supervise(&shared, acceptor, &received)
}

/// A directory whose clients have to say who they are is not served to everybody.
fn refuse_unguarded(data_dir: &Path, ground: &Ground) -> Result<(), Failure> {
    match ground.control.auth.enabled {
        true => Err(Failure::Auth { path: data_dir.to_owned() }),
        false => Ok(()),
    }
}

fn listen(urls: &[Url]) -> Result<Vec<TcpListener>, Failure> {
    let bind = |url: &Url| {
        let address = url.address().expect("checked with the flags");
        bind(address).map_err(|source| Failure::Listen { url: url.to_string(), source })
    };
    urls.iter().map(bind).collect()
}

fn front_limits(config: &Config, files: usize) -> Limits {
    let limits = Limits::default();
    Limits {
        connections_max: files.max(1),
        streams_max: limits.streams_max.min(config.max_concurrent_streams),
        message_bytes_max: config.max_request_bytes + (512 << 10),
        keepalive_interval: config.keepalive_interval,
        keepalive_timeout: config.keepalive_timeout,
        grace: GRACE,
        ..limits
    }
}

fn banner(config: &Config, identity: &home::Identity, machine: &limits::Machine) {
    let list = |urls: &[Url]| urls.iter().map(Url::to_string).collect::<Vec<_>>().join(",");
    tracing::info!(
        cored_version = VERSION,
        etcd_version = ETCD_VERSION,
        name = config.name,
        cluster_id = format!("{:016x}", identity.cluster),
        local_member_id = format!("{:016x}", identity.member),
        data_dir = %config.data_dir.display(),
        wal_dir = %config.wal_dir.display(),
        listen_client_urls = list(&config.listen_client_urls),
        advertise_client_urls = list(&config.advertise_client_urls),
        cores = config.cores,
        lanes = identity.lanes,
        kernel = machine.kernel,
        io_uring_features = format!("{:#x}", machine.uring_features),
        memlock_bytes = machine.memlock_bytes,
        nofile = machine.nofile,
        "starting a cored member"
    );
}

/// Waits for what ends a member: a signal, after which the cores stop in order, or a core that ends
/// by itself, after which nothing else matters.
fn supervise(
    shared: &Shared,
    mut acceptor: Acceptor,
    received: &Receiver<Event>,
) -> Result<(), Failure> {
    let (mut serving, mut running) = (0, shared.config.cores);
    let mut patience = Patience::Endless;
    while running > 0 {
        match patience.next(received) {
            Ok(Event::Serves) => {
                serving += 1;
                if serving == shared.config.cores {
                    tracing::info!("ready to serve client requests");
                    systemd::notify("READY=1");
                }
            }
            Ok(Event::Signal(signal)) if !shared.shutdown.is_asked() => {
                tracing::info!(signal, "received signal; shutting down");
                systemd::notify("STOPPING=1");
                patience = Patience::Until(Instant::now() + GRACE + REST);
                acceptor.stop();
                shared.shutdown.ask();
            }
            Ok(Event::Signal(signal)) => {
                tracing::warn!(signal, "received another signal; giving up what is in flight");
                patience = Patience::Last(Instant::now() + REST);
                shared.shutdown.force();
            }
            Ok(Event::Ended(core, Ok(()))) => {
                tracing::debug!(core = core.0, "a core came to rest");
                running -= 1;
            }
            Ok(Event::Ended(_, Err(failure))) => return Err(failure),
            Err(RecvTimeoutError::Timeout) if matches!(patience, Patience::Last(_)) => {
                let source = std::io::ErrorKind::TimedOut.into();
                return Err(Failure::System { what: "stop the cores".to_owned(), source });
            }
            Err(RecvTimeoutError::Timeout) => {
                tracing::warn!("the cores do not come to rest; giving up what is in flight");
                patience = Patience::Last(Instant::now() + REST);
                shared.shutdown.force();
            }
            // Every core says how it ends before it lets go of its end of the channel.
            Err(RecvTimeoutError::Disconnected) => unreachable!("{running} cores ended unheard"),
        }
    }
    tracing::info!(data_dir = %shared.config.data_dir.display(), "closed the member");
    Ok(())
}

/// How long the next event may take.
enum Patience {
    Endless,
    Until(Instant),
    Last(Instant),
}

impl Patience {
    fn next(&self, received: &Receiver<Event>) -> Result<Event, RecvTimeoutError> {
        match self {
            Patience::Endless => received.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Patience::Until(end) | Patience::Last(end) => {
                received.recv_timeout(end.saturating_duration_since(Instant::now()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Manifest;
    use crate::keys::Revision;
    use crate::lane::redo::{self, Auth, Control, Record};

    #[test]
    fn data_that_asks_for_passwords_is_not_served_unguarded() {
        for enabled in [false, true] {
            let auth = Auth { enabled, users: vec![("root".into(), "".into())], ..Auth::default() };
            let record = Record::Control { stamp: Revision(4), control: Control::Auth(auth) };
            let mut control = Vec::new();
            redo::encode(&mut control, &record);
            let (at, compacted) = (Revision(4), Revision::ZERO);
            let (cuts, blocks) = (Vec::new(), Vec::new());
            let manifest =
                Manifest { number: 1, cluster: 2, member: 3, at, compacted, cuts, control, blocks };
            let ground = Ground::of(&manifest).expect("sound");
            let refused = refuse_unguarded(Path::new("d"), &ground).map_err(|error| error.code());
            assert_eq!(refused.err(), enabled.then_some(21));
        }
    }
}
