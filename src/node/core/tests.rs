//! Drive loops of whole nodes on real executors, with logs on disks in memory and clients at the
//! doors.

use std::cell::Cell;
use std::future::Future;

use bytes::Bytes;
use cored_proto::etcdserverpb as pb;
use cored_wal::Options;
use cored_wal::disk::memory::{Fault, MemoryDisk, Pace};
use glommio::LocalExecutorBuilder;

use super::*;
use crate::engine::{Answer, Ground, Reply, Setup, recover};
use crate::keys::CoreId;
use crate::lane::Retained;
use crate::node::room::Room;
use crate::order::Order;
use crate::watch::HubConfig;

/// What a client of core 0 does; the node stops when it is done.
type Client = Box<dyn FnOnce(Rc<Door>) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// Runs a node of `cores` on the logs of all `disks` until `client` is done, and returns how each
/// core ended.
fn run<F: Future<Output = ()> + 'static>(
    cores: u16,
    lanes: u16,
    disks: &[MemoryDisk],
    client: impl FnOnce(Rc<Door>) -> F + Send + 'static,
) -> Vec<Result<(), cored_wal::Error>> {
    let mut records = vec![Vec::new(); usize::from(lanes)];
    let logs: Vec<_> = (0..)
        .zip(disks)
        .map(|(log, disk)| {
            let options = Options { log, segment_bytes: 1 << 20, ..Options::default() };
            let keep = |record: cored_wal::Record<'_>| {
                let payload = record.payload.clone();
                records[usize::from(record.lane)].push((record.kind, payload));
            };
            Log::open(disk.clone(), options, keep).expect("a sound log").0
        })
        .collect();
    let recovery = recover(records, &Ground::default()).expect("sound records");
    let meshes = Mesh::new(cores);
    let bell = meshes[0].bell();
    let shutdown = Shutdown::new(cores, move || bell.ring());
    let order = Arc::new(Order::new(lanes, cores));
    let pulses: Arc<[Pulse]> = (0..cores).map(|_| Pulse::default()).collect();
    let clock = Clock::start();

    let mut pasts: Vec<_> = (0..).map(LaneId).zip(recovery.lanes).collect();
    let room = Room::without_reserve();
    let mut client: Option<Client> = Some(Box::new(move |door| Box::pin(client(door))));
    let executors: Vec<_> = (0..cores)
        .zip(logs)
        .zip(meshes)
        .map(|((core, log), mesh)| {
            let groups = pasts.extract_if(.., |(lane, _)| lane.0 % cores == core).collect();
            let (order, past) = (Arc::clone(&order), recovery.past.clone());
            let hub = HubConfig::default();
            let core_id = CoreId(core);
            let setup = Setup {
                core: core_id,
                cores,
                lanes,
                member: 7,
                order,
                past,
                groups,
                base: None,
                log_bytes: 0,
                checkpoint_bytes: u64::MAX,
                checkpoint_bytes_max: u64::MAX,
                piece_bytes: usize::MAX,
                hub,
                auto_compaction: None,
            };
            let (shutdown, pulses) = (Arc::clone(&shutdown), Arc::clone(&pulses));
            let client = client.take();
            let room = room.clone();
            let live = move || async move {
                let door = Door::new(Default::default());
                let stops = Arc::clone(&shutdown);
                let serves = serves(usize::from(core), client, &door, Arc::clone(&shutdown));
                let linger = Rc::new(Linger::new(mesh.ear(), Rc::clone(&door)));
                let driven = drive(Parts {
                    background: None,
                    room: Watcher::new(room),
                    retained: Retained::default(),
                    engine: Engine::new(setup),
                    log,
                    mesh,
                    door,
                    linger,
                    clock,
                    shutdown,
                    pulses,
                    core: usize::from(core),
                    metrics: Arc::default(),
                    serves: Some(serves),
                })
                .await;
                if driven.is_err() {
                    stops.force();
                }
                driven
            };
            LocalExecutorBuilder::default().spawn(live).expect("a thread")
        })
        .collect();
    executors.into_iter().map(|executor| executor.join().expect("no panic")).collect()
}

fn serves(
    core: usize,
    client: Option<Client>,
    door: &Rc<Door>,
    shutdown: Arc<Shutdown>,
) -> Box<dyn FnOnce()> {
    let door = Rc::clone(door);
    Box::new(move || {
        spawn(async move {
            if let Some(client) = client {
                client(door).await;
                shutdown.ask();
            }
            shutdown.front_is_closed(core);
        })
        .detach();
    })
}

fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> glommio::Task<T> {
    let queue = glommio::executor().current_task_queue();
    glommio::spawn_local_into(future, queue).expect("the queue of a running task")
}

fn put(key: String) -> Request {
    Request::Put(pb::PutRequest { key: key.into(), value: "v".into(), ..Default::default() })
}

async fn count(door: &Door) -> i64 {
    let everything = pb::RangeRequest {
        key: Bytes::from_static(&[0]),
        range_end: Bytes::from_static(&[0]),
        count_only: true,
        ..Default::default()
    };
    match door.ask(Request::Range(everything)).await {
        Ok(Answer { reply: Reply::Range(range), .. }) => range.count,
        other => panic!("{other:?}"),
    }
}

fn assert_clean(ended: &[Result<(), cored_wal::Error>]) {
    assert!(ended.iter().all(Result::is_ok), "{ended:?}");
}

#[test]
fn what_was_acknowledged_is_there_whatever_the_cores_are_at_the_next_start() {
    let disks = [MemoryDisk::new(1), MemoryDisk::new(2)];
    let ended = run(2, 3, &disks, |door| async move {
        let puts: Vec<_> = (0..300)
            .map(|n| {
                let door = Rc::clone(&door);
                spawn(async move { door.ask(put(format!("key-{n}"))).await.map(|a| a.revision.0) })
            })
            .collect();
        let mut revisions = Vec::new();
        for put in puts {
            revisions.push(put.await.expect("acknowledged"));
        }
        revisions.sort_unstable();
        assert!(revisions.iter().copied().eq(2..302), "no gaps, none twice: {revisions:?}");
        assert_eq!(count(&door).await, 300);
    });
    assert_clean(&ended);
    for cores in [1, 2] {
        let ended = run(cores, 3, &disks, move |door| async move {
            assert_eq!(count(&door).await, 300, "on {cores} cores");
        });
        assert_clean(&ended);
    }
}

#[test]
fn nothing_is_answered_while_its_write_is_under_way() {
    let disk = MemoryDisk::new(3);
    let handle = disk.clone();
    let ended = run(1, 1, &[disk], move |door| async move {
        handle.set_pace(Pace::Stepwise);
        let answered = Rc::new(Cell::new(false));
        let asking = spawn({
            let (door, answered) = (Rc::clone(&door), Rc::clone(&answered));
            async move {
                let answer = door.ask(put("a".to_owned())).await;
                answered.set(true);
                answer
            }
        });
        while handle.under_way().is_empty() {
            Timer::new(PAUSE).await;
        }
        for _ in 0..20 {
            Timer::new(PAUSE_AFTER).await;
            assert!(!answered.get(), "the write is still under way");
        }
        handle.set_pace(Pace::AtOnce);
        handle.finish_all();
        asking.await.expect("acknowledged now");
    });
    assert_clean(&ended);
}

#[test]
fn a_failed_write_ends_the_core_with_the_reason_and_answers_nobody() {
    let disk = MemoryDisk::new(4);
    let handle = disk.clone();
    let answered = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let told = Arc::clone(&answered);
    let ended = run(1, 1, &[disk], move |door| async move {
        handle.plan(handle.operations(), Fault::Failed);
        drop(door.ask(put("a".to_owned())).await);
        told.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    assert!(matches!(ended[..], [Err(cored_wal::Error::Io { .. })]), "{ended:?}");
    assert!(!answered.load(std::sync::atomic::Ordering::SeqCst));
}

#[test]
fn a_node_that_is_stopped_at_once_stops() {
    let disks = [MemoryDisk::new(5), MemoryDisk::new(6)];
    assert_clean(&run(2, 2, &disks, |_| async {}));
    assert_clean(&run(2, 2, &disks, |_| async {}));
}

#[test]
fn requests_keep_their_order_and_precede_what_was_given_up() {
    let mut backlog = Backlog::default();
    let inbox = |numbers: &[u64], abandoned: &[u64]| Inbox {
        requests: numbers.iter().map(|n| (RequestId(*n), Request::Status)).collect(),
        abandoned: abandoned.iter().map(|n| RequestId(*n)).collect(),
        ..Inbox::default()
    };
    backlog.add(inbox(&[1, 2], &[1]));
    backlog.add(inbox(&[3], &[]));
    let mut order = Vec::new();
    while let Some(input) = backlog.next() {
        order.push(match input {
            Input::Request(id, _) => (id.0, true),
            Input::Abandoned(id) => (id.0, false),
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(order, [(1, true), (2, true), (3, true), (1, false)]);
    assert!(backlog.is_empty());
}

#[test]
fn each_write_is_timed_once() {
    let (mut writes, metrics) = (Writes::default(), metrics::Core::default());
    for (groups_started, groups_finished) in [(1, 0), (2, 0), (2, 1), (2, 1), (4, 4)] {
        writes.note(&Stats { groups_started, groups_finished, ..Stats::default() }, &metrics);
    }
    assert_eq!(metrics.wal_fsync.count(), 4);
    assert!(writes.started.is_empty());
}
