//! How a checkpoint comes about (R13, design §8): the keeper marks how far every lane is, waits until the
//! watermark covers that, freezes every shard at the watermark R, has the image built beside the running
//! node, and lets every shard go over to it.
//!
//! ```text
//! mark ─▶ cuts, reach ─▶ W ≥ reach: R = W ─▶ freeze ─▶ layers ─▶ build ─▶ base ─▶ swap ─▶ recycle the logs
//! ```
//!
//! **Why the cuts are right.** A lane's cut is an entry below which every record was committed and installed
//! everywhere when it was marked, so its revisions were handed out before and are at most `reach`. R is not
//! below `reach`, so everything up to the cut is in the image; what a lane holds above its cut and up to R is
//! there twice, and a start ignores it in the log. Control records up to lane 0's cut were effective when the
//! control state is copied; later ones may be in the copy too, and are applied again at a start, which
//! changes nothing: they set, they do not add.

use std::collections::BTreeMap;
use std::sync::Arc;

use cored_proto::etcdserverpb as pb;

use super::message::{Message, Origin};
use super::{Answer, Effects, Engine, Ground, Note, Reply};
use crate::checkpoint::Manifest;
use crate::keys::{CoreId, LaneId, LeaseId, Revision};
use crate::lane::Cut;
use crate::lane::redo::{self, Control, Malformed, Reader, Record, Seen};
use crate::mvcc::base::{Base, BlockRef};
use crate::mvcc::build::{self, Sink};
use crate::mvcc::{HashWalk, Layer, Replaced};
use crate::order::EpochRecord;

/// Milliseconds after which an image that could not be built is tried again.
const RETRY_MS: u64 = 5_000;

/// A node that stops makes a checkpoint of so much log, so that the next start has nothing to replay.
const STOP_MIN_BYTES: u64 = 1 << 20;

/// But not when image and log together have more than this: to write it would take longer than who stops a
/// node likes to wait, and than the start would take to read the log.
const QUICK_MAX_BYTES: u64 = 1 << 30;

/// And not for longer than this: what is not finished then is given up, and the log has everything.
pub const STOP_MS: u64 = 5_000;

/// An image with fewer bytes of keys and values is not made anew for its garbage.
const GARBAGE_MIN_BYTES: u64 = 16 << 20;

/// While the disk is full a checkpoint is made when the logs have so much: deletions too fill them.
const FULL_LOG_BYTES: u64 = 16 << 20;

/// What an image is built from, by someone who may take long. Nothing in it changes any more.
#[derive(Clone, Debug)]
pub struct Build {
    /// R.
    pub at: Revision,
    /// History below is left out.
    pub compacted: Revision,
    /// Per lane the newest entry that is wholly in the image.
    pub cuts: Arc<[Cut]>,
    /// Redo records of the control state.
    pub control: Vec<u8>,
    /// The frozen layers of all shards.
    pub layers: Vec<Arc<Layer>>,
    /// The image beneath them.
    pub base: Option<Arc<Base>>,
}

impl Build {
    /// Leaves history below `compacted` out: a compaction that took effect after the freeze, and may be
    /// what makes an image fit on a disk that is full.
    fn compact(&mut self, compacted: Revision) {
        let compacted = compacted.min(self.at);
        if compacted > self.compacted {
            self.compacted = compacted;
            let control = Control::Compact(compacted);
            redo::encode(&mut self.control, &Record::Control { stamp: self.at, control });
        }
    }

    /// Makes the blocks and returns their rows.
    ///
    /// # Errors
    /// Those of the sink, and of damaged blocks that have to be read.
    pub fn image<S: Sink>(&self, sink: &mut S) -> Result<Vec<BlockRef>, build::Error<S::Error>> {
        let layers: Vec<&Layer> = self.layers.iter().map(Arc::as_ref).collect();
        build::image(sink, self.base.as_deref(), &layers, self.compacted)
    }

    /// The manifest of a checkpoint of these blocks.
    #[must_use]
    pub fn manifest(
        &self,
        number: u64,
        cluster: u64,
        member: u64,
        blocks: Vec<BlockRef>,
    ) -> Manifest {
        Manifest {
            number,
            cluster,
            member,
            at: self.at,
            compacted: self.compacted,
            cuts: self.cuts.to_vec(),
            control: self.control.clone(),
            blocks,
        }
    }
}

impl Ground {
    /// What a start stands on, by a checkpoint's manifest.
    ///
    /// # Errors
    /// [`Malformed`] when the control state is not what this release writes.
    pub fn of(manifest: &Manifest) -> Result<Ground, Malformed> {
        let (at, lanes) = (manifest.at, manifest.cuts.clone());
        let mut ground = Ground { at, lanes, ..Ground::default() };
        let mut records = Reader::new(&manifest.control);
        while let Some(record) = records.record()? {
            match record {
                Seen::Other(Record::Epoch { epoch, cut, barriers }) => {
                    ground.epoch = Some(EpochRecord { epoch, cut, barriers });
                }
                Seen::Other(record) => ground.control.apply(&record),
                // No control state; none is written.
                Seen::Write { .. } | Seen::Revoke { .. } => {}
            }
        }
        Ok(ground)
    }
}

/// A checkpoint under way, on the keeper's core.
#[derive(Default)]
pub(super) struct Checkpointing {
    stage: Stage,
    /// Who waits for the checkpoint under way.
    waiting: Vec<Origin>,
    /// Who came too late for it and waits for the next.
    next: Vec<Origin>,
    /// The newest image.
    base: Option<Arc<Base>>,
    /// How often a damaged block of it had been met when somebody looked last.
    bad_reads: u64,
    /// History below is not in it.
    compacted: Revision,
    /// The epoch that the node serves in.
    epoch: EpochRecord,
    /// Bytes in the logs above the newest image, as the cores report them.
    log_bytes: u64,
    /// One is wanted before it is due: something in the logs is void, and a start that finds it so by a
    /// recorded epoch has to read them twice.
    wanted: bool,
    /// Whether the cores were told to let nothing grow.
    holding: bool,
    /// Cores that stop and have said how much their logs have.
    stopping: u16,
    /// The node stops, and waits until then for the checkpoint under way.
    stop_ms: Option<u64>,
    /// Leases whose end has a revision that the watermark may not cover, with their seconds to live.
    ended: BTreeMap<Revision, (LeaseId, i64)>,
}

#[derive(Default)]
enum Stage {
    #[default]
    Resting,
    /// Asked every core how far its lanes are.
    Marking { missing: u16, cuts: Vec<Cut>, reach: Revision },
    /// Waits until the watermark covers `reach` and no range is on its way.
    Reaching { cuts: Vec<Cut>, reach: Revision },
    /// Told every core to freeze its shards.
    Freezing { missing: u16, build: Build },
    /// Somebody builds it; when that failed, it is tried again at `retry_at_ms`.
    Building { build: Build, retry_at_ms: Option<u64> },
    /// Told every core to go over to the image.
    Swapping { missing: u16, dropped: Vec<Replaced> },
}

impl Checkpointing {
    /// Whether no range may begin to move: layers are frozen.
    pub(super) fn excludes_moves(&self) -> bool {
        matches!(
            self.stage,
            Stage::Freezing { .. } | Stage::Building { .. } | Stage::Swapping { .. }
        )
    }

    /// Whether a node of so many cores, which was told to stop, may do so.
    pub(super) fn is_quiet(&self, cores: u16) -> bool {
        let resting = self.stop_ms.is_none() || matches!(self.stage, Stage::Resting);
        resting && self.stopping == cores
    }

    /// Bytes of the newest image.
    fn image_bytes(&self) -> u64 {
        self.base.as_ref().map_or(0, |base| base.file_bytes())
    }

    /// Whether the next image is made quickly.
    fn is_quick(&self) -> bool {
        self.image_bytes() + self.log_bytes <= QUICK_MAX_BYTES
    }

    /// The revision that it waits for, if it waits for one.
    fn reach(&self) -> Option<Revision> {
        match &self.stage {
            Stage::Reaching { reach, .. } => Some(*reach),
            _ => None,
        }
    }

    /// The end of a lease that holds keys was installed here with revision `at`.
    pub(super) fn lease_ends(&mut self, at: Revision, lease: LeaseId, ttl_s: i64) {
        self.ended.insert(at, (lease, ttl_s));
    }
}

impl Engine {
    fn checkpoint(&mut self) -> &mut Checkpointing {
        &mut self.keeper.as_mut().expect("on the keeper's core").checkpoint
    }

    /// What a start found, on the keeper's core.
    pub(super) fn begin_checkpoints(&mut self, epoch: EpochRecord) {
        let base = self.base.clone();
        let past = self.past.as_ref().expect("kept until everything is installed");
        let wanted = past.has_void();
        let checkpoint = self.checkpoint();
        (checkpoint.base, checkpoint.epoch, checkpoint.wanted) = (base, epoch, wanted);
    }

    /// Tells each shard of this core which keys are its own, by the range map.
    pub(super) fn own_ranges(&mut self) {
        for seat in &mut self.seats {
            let lane = seat.lane();
            seat.shard.own(self.control.map.of_lane(lane).collect());
        }
    }

    /// How often a damaged block of the image was in anybody's way.
    fn bad_reads(&self) -> u64 {
        self.seats.first().map_or(0, |seat| seat.shard.store().bad_reads())
    }

    /// What `look` finds, unless a damaged block was in its way; in a neighbour's way at the same time will do.
    pub(super) fn intact<T>(&mut self, look: impl FnOnce(&mut Engine) -> T) -> Option<T> {
        let before = self.bad_reads();
        let found = look(self);
        (self.bad_reads() == before).then_some(found)
    }

    /// Raises the alarm when somebody has met a damaged block of the image: from then on nothing changes,
    /// until the alarm is ended. It comes back when such a block is met again.
    pub(super) fn watch_image(&mut self, fx: &mut Effects) {
        let bad_reads = self.bad_reads();
        let before = std::mem::replace(&mut self.checkpoint().bad_reads, bad_reads);
        if bad_reads == before || bad_reads == 0 {
            return;
        }
        let fault = self.seats.first().and_then(|seat| seat.shard.store().fault());
        if let Some(fault) = fault
            && self.raise(pb::AlarmType::Corrupt)
        {
            fx.notes.push(Note::Corrupt { fault });
        }
    }

    /// The disk is full: from now on nothing grows, as when the quota is reached, and a checkpoint gives
    /// back what the logs hold.
    pub(super) fn disk_full(&mut self, fx: &mut Effects) {
        if !self.serving || self.stopping {
            return;
        }
        let raised = self.raise(pb::AlarmType::Nospace);
        let checkpoint = self.checkpoint();
        let helps = raised || checkpoint.log_bytes >= FULL_LOG_BYTES;
        if helps && matches!(checkpoint.stage, Stage::Resting) {
            self.begin_checkpoint(fx);
        }
    }

    /// A caller wants everything written so far in a checkpoint.
    pub(super) fn ask_checkpoint(&mut self, origin: Origin, fx: &mut Effects) {
        let checkpoint = self.checkpoint();
        match checkpoint.stage {
            Stage::Resting => {
                checkpoint.waiting.push(origin);
                self.begin_checkpoint(fx);
            }
            // R is still to be chosen, and will cover the request.
            Stage::Marking { .. } | Stage::Reaching { .. } => checkpoint.waiting.push(origin),
            _ => checkpoint.next.push(origin),
        }
    }

    /// Looks whether a checkpoint is due.
    pub(super) fn checkpoint_tick(&mut self, fx: &mut Effects) {
        let now_ms = self.now_ms;
        let (least, most) = (self.checkpoint_bytes, self.checkpoint_bytes_max);
        let watermark = self.order.watermark();
        let compacted = self.control.compacted;
        let in_use = u64::try_from(self.order.usage().bytes_in_use()).unwrap_or(0);
        // Who has to make room or find damage first is not to be kept from it.
        let alarmed = self.control.alarms.is_raised(pb::AlarmType::Nospace)
            || self.control.alarms.is_raised(pb::AlarmType::Corrupt);
        let checkpoint = self.checkpoint();
        checkpoint.ended = checkpoint.ended.split_off(&watermark.next());
        // A large image is not written anew for every little log, but what the log has is in memory too.
        let image = checkpoint.image_bytes();
        let due = checkpoint.log_bytes >= least.max(image / 2).min(most);
        match &mut checkpoint.stage {
            Stage::Resting => {
                // Half of what is kept is garbage, and there is more to leave out than the last time.
                let kept = checkpoint.base.as_ref().map_or(0, |base| base.logical_bytes());
                let more = compacted > checkpoint.compacted;
                let garbage = kept >= GARBAGE_MIN_BYTES && more && in_use < kept / 2;
                // To read a log twice costs less than to write a large image.
                let wanted = checkpoint.wanted && checkpoint.is_quick() && !alarmed;
                if due || garbage || wanted {
                    self.begin_checkpoint(fx);
                }
            }
            Stage::Building { build, retry_at_ms }
                if retry_at_ms.is_some_and(|at| at <= now_ms) =>
            {
                *retry_at_ms = None;
                build.compact(compacted.min(watermark));
                fx.build = Some(Box::new(build.clone()));
            }
            // The next one is due before this one is made: memory and log would grow without end.
            Stage::Building { .. } => fx.hurry |= due,
            _ => {}
        }
    }

    /// The node stops: makes a last checkpoint if that is worth it and does not take long.
    fn stop_checkpoints(&mut self, fx: &mut Effects) {
        let stop_ms = self.now_ms + STOP_MS;
        let checkpoint = self.checkpoint();
        if !checkpoint.is_quick() {
            return;
        }
        checkpoint.stop_ms = Some(stop_ms);
        if matches!(checkpoint.stage, Stage::Resting) && checkpoint.log_bytes >= STOP_MIN_BYTES {
            self.begin_checkpoint(fx);
        }
    }

    /// The node stops, and time passes.
    pub(super) fn stop_tick(&mut self) {
        let now_ms = self.now_ms;
        let checkpoint = self.checkpoint();
        if checkpoint.stop_ms.is_some_and(|at| at <= now_ms) {
            checkpoint.stop_ms = None;
        }
    }

    fn begin_checkpoint(&mut self, fx: &mut Effects) {
        let (missing, lanes) = (self.cores, usize::from(self.lanes));
        let cuts = vec![Cut::default(); lanes];
        self.checkpoint().wanted = false;
        self.checkpoint().stage = Stage::Marking { missing, cuts, reach: Revision::ZERO };
        for core in (0..self.cores).map(CoreId) {
            self.send(core, Message::Mark, fx);
        }
    }

    /// Tells how far the lanes of this core are.
    pub(super) fn mark(&mut self, from: CoreId, fx: &mut Effects) {
        let mut cuts = Vec::new();
        for seat in &self.seats {
            let mut index = seat.settled();
            if seat.lane() == LaneId(0) {
                let keeper = self.keeper.as_ref().expect("lane 0 lives with the keeper");
                index = index.min(keeper.effective_index());
            }
            cuts.push((seat.lane(), seat.group.cut_at(index)));
        }
        self.logged_bytes = 0;
        // Read after the lanes: no revision below the cuts was handed out later.
        let reach = self.order.counter();
        self.send(from, Message::Marked { cuts, reach }, fx);
    }

    /// How far some lanes are.
    pub(super) fn marked(&mut self, marks: Vec<(LaneId, Cut)>, reached: Revision) {
        let checkpoint = self.checkpoint();
        checkpoint.log_bytes = 0;
        let Stage::Marking { missing, cuts, reach } = &mut checkpoint.stage else {
            unreachable!("marks are asked for")
        };
        for (lane, cut) in marks {
            cuts[usize::from(lane.0)] = cut;
        }
        *reach = reached.max(*reach);
        *missing -= 1;
        if *missing == 0 {
            let (cuts, reach) = (std::mem::take(cuts), *reach);
            checkpoint.stage = Stage::Reaching { cuts, reach };
        }
    }

    /// The revision that a checkpoint waits for and could go on with.
    pub(super) fn checkpoint_awaits(&self) -> Option<Revision> {
        let keeper = self.keeper.as_ref()?;
        keeper.checkpoint.reach().filter(|_| !keeper.is_moving())
    }

    /// Chooses R and freezes, once the watermark covers what was marked.
    pub(super) fn release_checkpoint(&mut self, watermark: Revision, fx: &mut Effects) {
        if self.checkpoint_awaits().is_none_or(|reach| reach > watermark) {
            return;
        }
        let control = self.control_at(watermark);
        let compacted = self.control.compacted.min(watermark);
        let missing = self.cores;
        let checkpoint = self.checkpoint();
        let Stage::Reaching { cuts, .. } = std::mem::take(&mut checkpoint.stage) else {
            unreachable!("just seen")
        };
        let build = Build {
            at: watermark,
            compacted,
            cuts: cuts.into(),
            control,
            layers: Vec::new(),
            base: checkpoint.base.clone(),
        };
        checkpoint.stage = Stage::Freezing { missing, build };
        for core in (0..self.cores).map(CoreId) {
            self.send(core, Message::Freeze { at: watermark }, fx);
        }
        // No move begins before the swap, and an image that can not be built may take long.
        self.begin_waiting_tasks(fx);
    }

    /// The control state as redo records. Everything that has taken effect here has a stamp or revision
    /// up to `at`, which the watermark covers, but ends of leases that hold keys: they take effect when
    /// they are installed, and above `at` they are still to come.
    fn control_at(&self, at: Revision) -> Vec<u8> {
        let keeper = self.keeper.as_ref().expect("on the keeper's core");
        let mut out = Vec::new();
        let mut put = |record: &Record| redo::encode(&mut out, record);
        let EpochRecord { epoch, cut, barriers } = keeper.checkpoint.epoch.clone();
        put(&Record::Epoch { epoch, cut, barriers });
        let map = &self.control.map;
        let map = Control::Map { version: map.version(), ranges: map.starts().to_vec() };
        let later = keeper.checkpoint.ended.range(at.next()..).map(|(_, lease)| *lease);
        let leases = &self.control.leases;
        let known = leases.ids().filter_map(|lease| Some((lease, leases.ttl_s(lease)?)));
        let leases: BTreeMap<LeaseId, i64> = known.chain(later).collect();
        let compact = Control::Compact(self.control.compacted);
        let remaining = leases.keys().filter_map(|lease| keeper.clock.logged_s(*lease));
        let remaining = Control::Remaining(remaining.collect());
        let grants = leases.iter().map(|(&lease, &ttl_s)| Control::Grant { lease, ttl_s });
        let alarms = self.control.alarms.of(0).map(|pb::AlarmMember { member_id, alarm }| {
            Control::Alarm { member: member_id, alarm, on: true }
        });
        let auth = Some(&self.control.auth).filter(|auth| !auth.is_empty());
        let auth = auth.map(|auth| Control::Auth((**auth).clone()));
        let controls = [map, compact].into_iter().chain(grants).chain([remaining]).chain(alarms);
        for control in controls.chain(auth) {
            put(&Record::Control { stamp: at, control });
        }
        out
    }

    /// Freezes the shards of this core: from now on they take no version up to `at`.
    pub(super) fn freeze(&mut self, from: CoreId, at: Revision, fx: &mut Effects) {
        let mut layers = Vec::new();
        for seat in &mut self.seats {
            seat.shard.freeze(at);
            layers.extend(seat.shard.store().frozen().cloned());
        }
        self.send(from, Message::Frozen { layers }, fx);
    }

    /// The frozen layers of a core; with the last of them the building begins.
    pub(super) fn frozen(&mut self, mut layers: Vec<Arc<Layer>>, fx: &mut Effects) {
        let checkpoint = self.checkpoint();
        let Stage::Freezing { missing, build } = &mut checkpoint.stage else {
            unreachable!("freezing was asked for")
        };
        build.layers.append(&mut layers);
        *missing -= 1;
        if *missing > 0 {
            return;
        }
        let build = build.clone();
        fx.build = Some(Box::new(build.clone()));
        checkpoint.stage = Stage::Building { build, retry_at_ms: None };
    }

    /// The image is durable, or could not be made: then what it is made of stays frozen.
    pub(super) fn built(&mut self, base: Option<Arc<Base>>, fx: &mut Effects) {
        let (now_ms, cores) = (self.now_ms, self.cores);
        let checkpoint = self.checkpoint();
        let Stage::Building { build, retry_at_ms } = &mut checkpoint.stage else {
            unreachable!("one image is built at a time")
        };
        let Some(base) = base else {
            *retry_at_ms = Some(now_ms + RETRY_MS);
            checkpoint.stop_ms = None;
            return self.hold_or_release(fx);
        };
        let cuts = Arc::clone(&build.cuts);
        checkpoint.compacted = build.compacted;
        checkpoint.bad_reads = 0;
        checkpoint.base = Some(Arc::clone(&base));
        checkpoint.stage = Stage::Swapping { missing: cores, dropped: Vec::new() };
        self.hold_or_release(fx);
        for core in (0..self.cores).map(CoreId) {
            let message = Message::Swap { base: Arc::clone(&base), cuts: Arc::clone(&cuts) };
            self.send(core, message, fx);
        }
    }

    /// The shards of this core go over to a new image; its log needs nothing below the cuts any more.
    pub(super) fn swap(
        &mut self,
        from: CoreId,
        base: &Arc<Base>,
        cuts: Arc<[Cut]>,
        fx: &mut Effects,
    ) {
        let mut dropped = Vec::new();
        for seat in &mut self.seats {
            dropped.push(seat.shard.swap(Arc::clone(base)));
        }
        self.digests.values_mut().flatten().for_each(HashWalk::base_changed);
        fx.recycle = Some(cuts);
        self.send(from, Message::Swapped { dropped }, fx);
    }

    /// A core has gone over; the last one ends the checkpoint.
    pub(super) fn swapped(&mut self, mut replaced: Vec<Replaced>, fx: &mut Effects) {
        let revision = self.order.watermark();
        let checkpoint = self.checkpoint();
        let Stage::Swapping { missing, dropped } = &mut checkpoint.stage else {
            unreachable!("swapping was asked for")
        };
        dropped.append(&mut replaced);
        *missing -= 1;
        if *missing > 0 {
            return;
        }
        fx.dropped.append(dropped);
        checkpoint.stage = Stage::Resting;
        let done = std::mem::take(&mut checkpoint.waiting);
        checkpoint.waiting = std::mem::take(&mut checkpoint.next);
        let more = !checkpoint.waiting.is_empty();
        for origin in done {
            self.respond(origin, Ok(Answer { revision, reply: Reply::Done }), fx);
        }
        // A move that waits goes before the next checkpoint.
        self.begin_waiting_move(fx);
        if more {
            self.begin_checkpoint(fx);
        }
    }

    /// Bytes that a core has logged since it was marked, or since the last report; `last` when it stops.
    pub(super) fn logged(&mut self, bytes: u64, last: bool, fx: &mut Effects) {
        let (cores, serving) = (self.cores, self.serving);
        let checkpoint = self.checkpoint();
        checkpoint.log_bytes += bytes;
        checkpoint.stopping += u16::from(last);
        let all_stop = last && checkpoint.stopping == cores;
        self.hold_or_release(fx);
        if all_stop && serving {
            self.stop_checkpoints(fx);
        }
    }

    /// Lets nothing grow while an image is built and the next one is more than due: memory would not
    /// suffice for what writers have ready. Otherwise, and if it can not be built, nobody has to wait.
    fn hold_or_release(&mut self, fx: &mut Effects) {
        let most = self.checkpoint_bytes_max;
        let checkpoint = self.checkpoint();
        let is_built = matches!(checkpoint.stage, Stage::Building { retry_at_ms: None, .. });
        let hold = is_built && checkpoint.log_bytes >= most.saturating_add(most / 2);
        if hold != std::mem::replace(&mut checkpoint.holding, hold) {
            for core in (0..self.cores).map(CoreId) {
                self.send(core, Message::Hold(hold), fx);
            }
        }
    }
}
