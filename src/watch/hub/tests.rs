//! Transcripts of single streams; the same against a model in [`model`].

use prost::Message as _;

use super::super::Event;
use super::*;
use crate::keys::LeaseId;
use crate::mvcc::VersionRef;

mod model;

const S: StreamId = StreamId(7);

pub(super) fn put(key: &str, revision: i64, value: &str) -> Event {
    Event::put(&version(key, revision, value), None)
}

pub(super) fn version<'a>(key: &'a str, revision: i64, value: &'a str) -> VersionRef<'a> {
    VersionRef {
        key: key.as_bytes(),
        value: value.as_bytes(),
        create: Revision(revision),
        modified: Revision(revision),
        sub: 0,
        version: 1,
        lease: LeaseId::NONE,
    }
}

/// A hub, and what it asked for.
struct Bench {
    hub: Hub,
    now: Now,
    actions: VecDeque<Action>,
}

impl Bench {
    fn at(w: i64) -> Bench {
        Bench::with(w, HubConfig { cluster_id: 1, member_id: 2, ..HubConfig::default() })
    }

    fn with(w: i64, config: HubConfig) -> Bench {
        let mut hub = Hub::new(CoreId(3), config);
        hub.set_term(4);
        let now = Now { watermark: Revision(w), compacted: Revision(0), now_ms: 0 };
        let mut bench = Bench { hub, now, actions: VecDeque::new() };
        bench.input(WatchInput::Open);
        bench.advance(w);
        bench
    }

    fn call<T>(&mut self, f: impl FnOnce(&mut Hub, Now, &mut Vec<Action>) -> T) -> T {
        let mut out = Vec::new();
        let result = f(&mut self.hub, self.now, &mut out);
        self.actions.extend(out);
        result
    }

    fn input(&mut self, input: WatchInput) {
        self.call(|hub, now, out| hub.input(S, input, now, out));
    }

    fn create(&mut self, request: pb::WatchCreateRequest) {
        let request_union = Some(RequestUnion::CreateRequest(request));
        self.input(WatchInput::Request(pb::WatchRequest { request_union }));
    }

    fn cancel(&mut self, watch_id: i64) {
        let cancel = pb::WatchCancelRequest { watch_id };
        let request_union = Some(RequestUnion::CancelRequest(cancel));
        self.input(WatchInput::Request(pb::WatchRequest { request_union }));
    }

    fn ask_progress(&mut self) {
        let request_union = Some(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
        self.input(WatchInput::Request(pb::WatchRequest { request_union }));
    }

    fn advance(&mut self, w: i64) {
        self.now.watermark = Revision(w);
        self.call(|hub, now, out| hub.advance(now, out));
    }

    fn matched(&mut self, event: &Event, watchers: &[WatcherId]) {
        let watchers = watchers.iter().map(|watcher| watcher.number).collect();
        self.hub.matched(vec![Matched { event: event.clone(), watchers }]);
    }

    /// Creates a watcher from now on and registers it.
    fn live(&mut self, request: pb::WatchCreateRequest) -> WatcherId {
        self.create(request);
        self.response();
        let watcher = self.registers();
        self.call(|hub, _, out| hub.registered(watcher, Vec::new(), out));
        watcher
    }

    fn action(&mut self) -> Action {
        self.actions.pop_front().expect("something is asked for")
    }

    fn response(&mut self) -> pb::WatchResponse {
        match self.action() {
            Action::Send { stream, bytes } => {
                assert_eq!(stream, S);
                pb::WatchResponse::decode(bytes).expect("well-formed")
            }
            other => panic!("not a response: {other:?}"),
        }
    }

    fn registers(&mut self) -> WatcherId {
        match self.action() {
            Action::Register { watcher, .. } => watcher,
            other => panic!("not a registration: {other:?}"),
        }
    }

    fn reads(&mut self) -> (WatcherId, Revision) {
        match self.action() {
            Action::History { watcher, from, .. } => (watcher, from),
            other => panic!("not a read of history: {other:?}"),
        }
    }

    fn nothing(&self) {
        assert_eq!(self.actions, [], "nothing more is asked for");
    }
}

fn on(key: &str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        key: key.as_bytes().to_vec().into(),
        ..pb::WatchCreateRequest::default()
    }
}

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { cluster_id: 1, member_id: 2, revision, raft_term: 4 })
}

fn revisions(response: &pb::WatchResponse) -> Vec<i64> {
    response.events.iter().map(|event| event.kv.as_ref().expect("always").mod_revision).collect()
}

#[test]
fn a_watcher_is_created_hears_of_changes_and_is_canceled() {
    let mut bench = Bench::at(5);
    bench.create(on("a"));
    let created =
        pb::WatchResponse { header: header(5), created: true, ..pb::WatchResponse::default() };
    assert_eq!(bench.response(), created);
    let Action::Register { watcher, range, from, prev_kv } = bench.action() else {
        panic!("it registers")
    };
    assert_eq!((range, from, prev_kv), (KeyRange::single(b"a"), Revision(6), false));
    bench.call(|hub, _, out| hub.registered(watcher, Vec::new(), out));

    bench.matched(&put("a", 7, "x"), &[watcher]);
    bench.matched(&put("a", 6, "w"), &[watcher]);
    assert_eq!(bench.hub.awaits(), Some(Revision(6)));
    bench.nothing();
    bench.advance(6);
    let response = bench.response();
    assert_eq!(
        (response.header, &*response.events[0].kv.as_ref().unwrap().value),
        (header(6), &b"w"[..])
    );
    bench.advance(6);
    bench.nothing();
    bench.advance(9);
    assert_eq!(revisions(&bench.response()), [7]);

    bench.cancel(0);
    assert_eq!(bench.action(), Action::Unregister { watcher });
    let canceled =
        pb::WatchResponse { header: header(9), canceled: true, ..pb::WatchResponse::default() };
    assert_eq!(bench.response(), canceled);
    bench.cancel(0);
    bench.matched(&put("a", 10, "late"), &[watcher]);
    bench.advance(10);
    assert_eq!(bench.action(), Action::Unregister { watcher }, "a shard has not heard of it");
    bench.nothing();
}

#[test]
fn ids_count_from_zero_around_those_that_clients_chose() {
    let mut bench = Bench::at(5);
    let mut ids = Vec::new();
    for watch_id in [1, 0, 0, -7, 0] {
        bench.create(pb::WatchCreateRequest { watch_id, ..on("a") });
        ids.push(bench.response().watch_id);
        bench.registers();
    }
    assert_eq!(ids, [1, 0, 2, -7, 3]);
    bench.cancel(2);
    assert_eq!(bench.response().watch_id, 2);
    bench.create(on("a"));
    assert_eq!(bench.response().watch_id, 4, "a number is not given out twice");
}

#[test]
fn refusals_are_etcds_and_do_not_end_the_stream() {
    let mut bench = Bench::at(5);
    bench.create(pb::WatchCreateRequest { watch_id: 3, ..on("a") });
    bench.response();
    bench.registers();
    let refused = [
        (
            pb::WatchCreateRequest { start_revision: -1, ..on("a") },
            "etcdserver: mvcc: required revision has been compacted",
        ),
        (
            pb::WatchCreateRequest { range_end: b"a".to_vec().into(), ..on("b") },
            "mvcc: watcher range is empty",
        ),
        (
            pb::WatchCreateRequest { range_end: b"b".to_vec().into(), ..on("b") },
            "mvcc: watcher range is empty",
        ),
        (
            pb::WatchCreateRequest { watch_id: 3, ..on("b") },
            "mvcc: duplicate watch ID provided on the WatchStream",
        ),
    ];
    for (request, reason) in refused {
        bench.create(request);
        let expected = pb::WatchResponse {
            header: header(5),
            watch_id: -1,
            created: true,
            canceled: true,
            cancel_reason: reason.to_owned(),
            ..pb::WatchResponse::default()
        };
        assert_eq!(bench.response(), expected);
        bench.nothing();
    }
    bench.input(WatchInput::Request(pb::WatchRequest::default()));
    bench.nothing();
    bench.create(pb::WatchCreateRequest { range_end: vec![0].into(), ..on("") });
    bench.response();
    let Action::Register { range, .. } = bench.action() else { panic!("it registers") };
    assert_eq!(range, KeyRange::all(), "no key and range_end \\0 is everything");
}

#[test]
fn a_compacted_start_is_created_and_then_canceled_without_revision_or_reason() {
    let mut bench = Bench::at(9);
    bench.now.compacted = Revision(6);
    bench.create(pb::WatchCreateRequest { start_revision: 5, ..on("a") });
    assert!(bench.response().created);
    let canceled = pb::WatchResponse {
        header: header(0),
        canceled: true,
        compact_revision: 6,
        ..pb::WatchResponse::default()
    };
    assert_eq!(bench.response(), canceled);
    bench.nothing();
    bench.create(pb::WatchCreateRequest { start_revision: 6, ..on("a") });
    assert!(bench.response().created);
    assert_eq!(bench.reads().1, Revision(6), "the compacted revision itself is legal");
}

#[test]
fn a_compaction_that_a_shard_heard_of_first_is_waited_for() {
    let mut bench = Bench::at(9);
    bench.create(pb::WatchCreateRequest { start_revision: 5, ..on("a") });
    bench.response();
    let (watcher, _) = bench.reads();
    bench.call(|hub, _, out| hub.compacted(watcher, Revision(0), out));
    bench.advance(9);
    bench.nothing();
    bench.now.compacted = Revision(8);
    bench.advance(9);
    assert_eq!(bench.response().compact_revision, 8);
    bench.nothing();
    assert_eq!(bench.hub.counts().watchers, 0);
}

#[test]
fn history_comes_in_chunks_then_what_the_shards_have_then_what_is_new() {
    let mut bench = Bench::at(10);
    bench.create(pb::WatchCreateRequest { start_revision: 3, ..on("a") });
    assert!(bench.response().created);
    let (read, from) = bench.reads();
    assert_eq!(from, Revision(3));
    bench.call(|hub, _, out| hub.history(read, vec![put("a", 3, "")], Revision(6), out));
    let response = bench.response();
    assert_eq!((response.header, revisions(&response)), (header(10), vec![3]));
    let (read, from) = bench.reads();
    assert_eq!(from, Revision(7), "the first chunk was not all");
    bench.call(|hub, _, out| hub.history(read, vec![put("a", 8, "")], Revision(10), out));
    assert_eq!(revisions(&bench.response()), [8]);
    let watcher = bench.registers();

    // One shard has answered and sends events; the other has not.
    bench.matched(&put("a", 12, ""), &[watcher]);
    bench.advance(12);
    bench.matched(&put("a", 14, ""), &[watcher]);
    bench.nothing();
    let had = vec![put("a", 11, ""), put("a", 13, "")];
    bench.call(|hub, _, out| hub.registered(watcher, had, out));
    assert_eq!(revisions(&bench.response()), [11, 12]);
    bench.advance(14);
    assert_eq!(revisions(&bench.response()), [13, 14]);
    bench.nothing();
}

#[test]
fn too_much_for_one_registration_is_read_as_history() {
    let mut bench = Bench::at(10);
    bench.create(on("a"));
    bench.response();
    let watcher = bench.registers();
    bench.advance(20);
    bench.call(|hub, _, out| hub.too_far(watcher, out));
    assert_eq!(bench.action(), Action::Unregister { watcher });
    let (read, from) = bench.reads();
    assert_eq!(from, Revision(11));
    assert_ne!(read, watcher);
    // An answer to the old number means nothing.
    bench.call(|hub, _, out| hub.registered(watcher, vec![put("a", 12, "")], out));
    assert_eq!(bench.action(), Action::Unregister { watcher });
    bench.nothing();
}

#[test]
fn a_watcher_that_is_canceled_while_it_registers_leaves_nothing_behind() {
    let mut bench = Bench::at(10);
    bench.create(on("a"));
    bench.response();
    let watcher = bench.registers();
    bench.cancel(0);
    assert!(bench.response().canceled);
    bench.nothing();
    bench.call(|hub, _, out| hub.registered(watcher, Vec::new(), out));
    assert_eq!(bench.action(), Action::Unregister { watcher });
    bench.input(WatchInput::Close);
    bench.input(WatchInput::Sent { bytes: 1 });
    bench.create(on("a"));
    bench.nothing();
}

#[test]
fn a_future_start_hears_nothing_before_it() {
    let mut bench = Bench::at(5);
    bench.create(pb::WatchCreateRequest { start_revision: 8, ..on("a") });
    assert_eq!(bench.response().header, header(5));
    let watcher = bench.registers();
    bench.call(|hub, _, out| hub.registered(watcher, Vec::new(), out));
    bench.ask_progress();
    bench.matched(&put("a", 6, ""), &[watcher]);
    bench.advance(6);
    bench.nothing();
    assert_eq!(bench.hub.awaits(), Some(Revision(7)), "then there is something to say");
    bench.matched(&put("a", 8, ""), &[watcher]);
    bench.advance(8);
    assert_eq!(revisions(&bench.response()), [8]);
    let progress = bench.response();
    assert_eq!((progress.watch_id, progress.header), (-1, header(8)));
    bench.nothing();
}

#[test]
fn filters_and_previous_values_are_each_watchers_own() {
    let mut bench = Bench::at(5);
    let filter =
        |kind: FilterType| pb::WatchCreateRequest { filters: vec![kind as i32], ..on("a") };
    let no_put = bench.live(filter(FilterType::Noput));
    let no_delete = bench.live(filter(FilterType::Nodelete));
    let previous = bench.live(pb::WatchCreateRequest { prev_kv: true, ..on("a") });
    let all = [no_put, no_delete, previous];
    let old = version("a", 5, "old");
    bench.matched(&Event::put(&version("a", 6, "new"), Some(&old)), &all);
    bench.advance(6);
    let response = bench.response();
    assert_eq!((response.watch_id, response.events[0].prev_kv.is_none()), (1, true));
    let response = bench.response();
    assert_eq!(response.watch_id, 2);
    assert_eq!(response.events[0].prev_kv.as_ref().map(|kv| kv.mod_revision), Some(5));
    bench.nothing();
    bench.matched(&Event::delete(b"a", Revision(7), 0, None), &all);
    bench.advance(7);
    assert_eq!([bench.response().watch_id, bench.response().watch_id], [0, 2]);
    bench.nothing();
}

#[test]
fn a_large_response_is_cut_into_fragments_if_the_client_can_join_them() {
    let config = HubConfig { max_request_bytes: 1000, ..HubConfig::default() };
    let mut bench = Bench::with(5, config);
    let limit = 1000 + OVERHEAD_BYTES;
    let whole = bench.live(on("a"));
    let cut = bench.live(pb::WatchCreateRequest { fragment: true, ..on("a") });
    let value = "v".repeat(limit / 2 - 100);
    for sub in 0..5 {
        let version = VersionRef { sub, ..version("a", 6, &value) };
        bench.matched(&Event::put(&version, None), &[whole, cut]);
    }
    bench.advance(6);
    assert_eq!(bench.response().events.len(), 5);
    let mut counts = Vec::new();
    while let Some(Action::Send { bytes, .. }) = bench.actions.pop_front() {
        assert!(bytes.len() < limit, "{}", bytes.len());
        let response = pb::WatchResponse::decode(bytes).expect("well-formed");
        counts.push((response.events.len(), response.fragment));
    }
    assert_eq!(counts, [(2, true), (2, true), (1, false)]);
}

#[test]
fn progress_is_answered_once_when_everything_before_it_is_sent() {
    let mut bench = Bench::at(5);
    bench.ask_progress();
    bench.advance(5);
    bench.nothing();
    let watcher = bench.live(on("a"));
    bench.create(pb::WatchCreateRequest { start_revision: 2, ..on("b") });
    bench.response();
    let (read, _) = bench.reads();
    bench.ask_progress();
    bench.ask_progress();
    bench.advance(5);
    bench.nothing();
    bench.matched(&put("a", 6, ""), &[watcher]);
    bench.call(|hub, _, out| hub.history(read, vec![put("b", 4, "")], Revision(5), out));
    bench.response();
    let second = bench.registers();
    bench.call(|hub, _, out| hub.registered(second, Vec::new(), out));
    bench.nothing();
    bench.advance(6);
    assert_eq!(revisions(&bench.response()), [6]);
    let progress = bench.response();
    let expected =
        pb::WatchResponse { header: header(6), watch_id: -1, ..pb::WatchResponse::default() };
    assert_eq!(progress, expected);
    bench.advance(7);
    bench.nothing();
}

#[test]
fn a_watcher_created_above_the_released_watermark_is_not_ahead_of_it() {
    let mut bench = Bench::at(5);
    bench.now.watermark = Revision(7);
    bench.create(on("a"));
    assert_eq!(bench.response().header, header(7));
    let watcher = bench.registers();
    bench.call(|hub, _, out| hub.registered(watcher, Vec::new(), out));
    bench.ask_progress();
    bench.advance(6);
    bench.nothing();
    assert_eq!(bench.hub.awaits(), Some(Revision(7)));
    bench.advance(7);
    assert_eq!(bench.response().header, header(7));
}

#[test]
fn quiet_watchers_that_want_it_hear_of_progress_now_and_then() {
    let config = HubConfig { progress_notify_ms: 1000, ..HubConfig::default() };
    let mut bench = Bench::with(5, config);
    let period_ms = bench.hub.progress_period_ms(S);
    assert!((1000..=1100).contains(&period_ms));
    let notify = pb::WatchCreateRequest { progress_notify: true, ..on("a") };
    let busy = bench.live(notify.clone());
    bench.live(notify);
    bench.live(on("a"));
    bench.matched(&put("a", 6, ""), &[busy]);
    bench.advance(6);
    assert_eq!(bench.response().watch_id, 0);
    bench.now.now_ms = period_ms - 1;
    bench.advance(7);
    bench.nothing();
    bench.now.now_ms = period_ms;
    bench.advance(8);
    let progress = bench.response();
    assert_eq!((progress.watch_id, progress.header.map(|h| h.revision)), (1, Some(8)));
    bench.nothing();
    bench.now.now_ms = 2 * period_ms;
    bench.advance(8);
    assert_eq!([bench.response().watch_id, bench.response().watch_id], [0, 1]);
    bench.input(WatchInput::Close);
    bench.actions.clear();
    bench.now.now_ms = 9 * period_ms;
    bench.advance(8);
    bench.nothing();
}

#[test]
fn a_client_that_reads_slowly_falls_behind_alone_and_comes_back() {
    let config = HubConfig { waiting_bytes_max: 200, ..HubConfig::default() };
    let mut bench = Bench::with(5, config);
    let watcher = bench.live(on("a"));
    let value = "v".repeat(300);
    bench.matched(&put("a", 6, &value), &[watcher]);
    bench.advance(6);
    assert_eq!(revisions(&bench.response()), [6]);
    bench.matched(&put("a", 7, &value), &[watcher]);
    bench.matched(&put("a", 8, &value), &[watcher]);
    bench.advance(8);
    assert_eq!(bench.action(), Action::Unregister { watcher });
    bench.nothing();
    assert_eq!(bench.hub.counts(), Counts { streams: 1, watchers: 1, slow: 1, pending: 0 });
    bench.ask_progress();
    bench.advance(9);
    bench.nothing();

    bench.input(WatchInput::Sent { bytes: 10 });
    bench.nothing();
    bench.input(WatchInput::Sent { bytes: 2000 });
    let (read, from) = bench.reads();
    assert_eq!(from, Revision(7));
    let missed = vec![put("a", 7, &value), put("a", 8, &value)];
    bench.call(|hub, _, out| hub.history(read, missed, Revision(9), out));
    assert_eq!(revisions(&bench.response()), [7, 8]);
    bench.registers();
    bench.nothing();
}

#[test]
fn who_asks_without_reading_is_not_answered_without_bound() {
    let config = HubConfig { waiting_bytes_max: 1000, ..HubConfig::default() };
    let mut bench = Bench::with(5, config);
    for _ in 0..10_000 {
        bench.create(pb::WatchCreateRequest { start_revision: -1, ..on("a") });
    }
    assert!(bench.actions.len() < 100, "{} responses wait", bench.actions.len());
}

#[test]
fn many_watchers_that_catch_up_take_turns() {
    let mut bench = Bench::at(50);
    for _ in 0..100 {
        bench.create(pb::WatchCreateRequest { start_revision: 2, ..on("a") });
    }
    let mut reads: VecDeque<WatcherId> = VecDeque::new();
    let take = |bench: &mut Bench, reads: &mut VecDeque<WatcherId>| {
        let more = bench.actions.drain(..).filter_map(|action| match action {
            Action::History { watcher, .. } => Some(watcher),
            _ => None,
        });
        reads.extend(more);
    };
    take(&mut bench, &mut reads);
    let mut most = reads.len();
    let mut done = 0;
    while let Some(read) = reads.pop_front() {
        // One in three was canceled meanwhile: its answer frees its place all the same.
        if done % 3 == 0 {
            bench.cancel(done);
        }
        bench.call(|hub, _, out| hub.compacted(read, Revision(40), out));
        done += 1;
        take(&mut bench, &mut reads);
        most = most.max(reads.len());
    }
    assert!(most <= 16 && bench.hub.counts().watchers == 0, "{:?}", bench.hub.counts());
}

#[test]
fn what_an_ended_epoch_had_in_flight_is_never_told() {
    let mut bench = Bench::at(5);
    let watcher = bench.live(on("a"));
    bench.matched(&put("a", 6, "kept"), &[watcher]);
    bench.matched(&put("a", 7, "void"), &[watcher]);
    bench.hub.drop_above(Revision(6));
    bench.matched(&put("a", 7, "real"), &[watcher]);
    bench.advance(7);
    let response = bench.response();
    let values =
        response.events.iter().map(|event| event.kv.as_ref().expect("always").value.clone());
    assert_eq!(values.collect::<Vec<_>>(), ["kept", "real"]);
}
