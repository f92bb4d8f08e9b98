//! What is changed in each mutant, and which rule of `docs/design.md` that breaks.

/// One change.
pub struct Mutant {
    /// What is wrong.
    pub name: &'static str,
    /// The rule that it breaks.
    pub rule: &'static str,
    /// The file that is changed…
    pub file: &'static str,
    /// …this text of which, which occurs once…
    pub replace: &'static str,
    /// …gives way to this.
    pub with: &'static str,
}

/// All mutants, by rule.
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "a write is answered before its gate",
        rule: "R1",
        file: "src/engine/mod.rs",
        replace: "&& waiter.gate <= watermark",
        with: "&& waiter.gate <= Revision::MAX",
    },
    Mutant {
        name: "a failed compare is answered without a gate",
        rule: "R1",
        file: "src/engine/serve.rs",
        replace: "Ok(Outcome { reply, revision: None }) => (seen,",
        with: "Ok(Outcome { reply, revision: None }) => (Revision::ZERO,",
    },
    Mutant {
        name: "a failed compare across shards is answered without a gate",
        rule: "R1",
        file: "src/engine/across.rs",
        replace: "return self.respond_at(seen, origin, Ok(Answer { revision: seen, reply }));",
        with: "return self.respond(origin, Ok(Answer { revision: seen, reply }), fx);",
    },
    Mutant {
        name: "the header is the watermark when the answer is sent",
        rule: "R1",
        file: "src/engine/mod.rs",
        replace: "self.respond(waiter.origin, waiter.answer, fx);
            }
        }",
        with: "let answer = waiter.answer.map(|a| Answer { revision: watermark, ..a });
                self.respond(waiter.origin, answer, fx);
            }
        }",
    },
    Mutant {
        name: "a read sees what is not committed",
        rule: "R1",
        file: "src/engine/serve.rs",
        replace: "let watermark = self.order.watermark();
        let revision = read_revision(request, watermark, self.control.compacted)?;",
        with: "let watermark = self.order.counter();
        let revision = read_revision(request, watermark, self.control.compacted)?;",
    },
    Mutant {
        name: "the second batch of a lane overwrites its bound",
        rule: "R2",
        file: "src/order/watermark.rs",
        replace: "bound.store(bound.load(SeqCst).min(next), SeqCst);",
        with: "bound.store(next, SeqCst);",
    },
    Mutant {
        name: "the watermark ignores a lane",
        rule: "R2",
        file: "src/order/watermark.rs",
        replace: "self.oldest_inflight.iter().map(|bound| bound.0.load(SeqCst))",
        with: "self.oldest_inflight.iter().skip(1).map(|bound| bound.0.load(SeqCst))",
    },
    Mutant {
        name: "a lane leaves before every shard has installed",
        rule: "R2",
        file: "src/engine/seat.rs",
        replace: "            && flight.installs == 0
        {",
        with: "        {",
    },
    Mutant {
        name: "a lane leaves before its record is committed",
        rule: "R2",
        file: "src/engine/seat.rs",
        replace: "&& flight.index <= self.committed",
        with: "&& flight.index < u64::MAX",
    },
    Mutant {
        name: "it serves before the last barrier",
        rule: "R5",
        file: "src/engine/start.rs",
        replace: "let Some(barriers) = keeper.start.barriers.iter().copied().collect::<Option<Vec<_>>>()
        else {
            return;
        };",
        with: "if keeper.start.record.is_some() {
            return;
        }
        let barriers: Vec<_> = keeper.start.barriers.iter().map(|at| at.unwrap_or_default()).collect();",
    },
    Mutant {
        name: "the epoch record ignores a lane",
        rule: "R5",
        file: "src/engine/start.rs",
        replace: "let past = self.past.as_ref().expect(\"kept until everything is installed\");",
        with: "let mut barriers = barriers;
        *barriers.last_mut().expect(\"a lane\") = (0, 0);
        let past = self.past.as_ref().expect(\"kept until everything is installed\");",
    },
    Mutant {
        name: "the cut ignores a lane",
        rule: "R5",
        file: "src/engine/past.rs",
        replace: "crate::order::epoch::cut(ground.at, &runs)",
        with: "crate::order::epoch::cut(ground.at, &runs[..runs.len() - 1])",
    },
    Mutant {
        name: "nothing is void",
        rule: "R5",
        file: "src/order/epoch.rs",
        replace: "self.0.get(behind).map(|epoch| epoch.cut)",
        with: "self.0.get(behind).map(|_| Revision::MAX)",
    },
    Mutant {
        name: "no control record is void",
        rule: "R5",
        file: "src/engine/past.rs",
        replace: "record.at().is_none_or(|at| !epochs.voids(LaneId(0), *index, at))",
        with: "record.at().is_none_or(|at| !epochs.voids(LaneId(0), *index, at) || true)",
    },
    Mutant {
        name: "lanes are replayed one after the other",
        rule: "R8",
        file: "src/engine/past.rs",
        replace: ".min_by_key(|cursor| cursor.next.as_ref().map(|(revision, ..)| *revision))",
        with: ".min_by_key(|cursor| cursor.lane)",
    },
    Mutant {
        name: "latches are released before the install",
        rule: "R9",
        file: "src/engine/across.rs",
        replace: "self.seat(logged_by).took(at, per_lane.len());",
        with: "for lane in self.across[&op].lanes.clone() {
            self.send(self.core_of(lane), Message::Release { op, lane }, fx);
        }
        self.seat(logged_by).took(at, per_lane.len());",
    },
    Mutant {
        name: "an operation across shards does not latch",
        rule: "R9",
        file: "src/engine/across.rs",
        replace: "match self.seats[at].latches.claim(op, claim.clone(), turn, waiter) {",
        with: "let _ = (turn, waiter);
        match Granted::Now {",
    },
    Mutant {
        name: "a claim waits for those that wait for its operation",
        rule: "R9",
        file: "src/route/latch.rs",
        replace: "Turn::Later => &[],",
        with: "Turn::Later => &self.waiting[..before],",
    },
    Mutant {
        name: "a key is bound to a lease that is being revoked",
        rule: "R9",
        file: "src/engine/serve.rs",
        replace: "binds: leases_of(&request) }",
        with: "binds: Vec::new() }",
    },
    Mutant {
        name: "a revocation does not latch the keys of its lease",
        rule: "R9",
        file: "src/engine/across.rs",
        replace: "Round::Ask if !keys.is_empty() =>",
        with: "Round::Ask if false =>",
    },
    Mutant {
        name: "a shard serves keys that are still on their way",
        rule: "R10",
        file: "src/engine/seat.rs",
        replace: "ranges.into_iter().any(|range| range.overlaps(&transfer.range))",
        with: "ranges.into_iter().any(|range| range.overlaps(&transfer.range) && false)",
    },
    Mutant {
        name: "a shard does not check that it owns the keys",
        rule: "R10",
        file: "src/engine/serve.rs",
        replace: "if !ranges.iter().all(|range| self.control.map.owns(lane, range)) {",
        with: "if false && !ranges.iter().all(|range| self.control.map.owns(lane, range)) {",
    },
    Mutant {
        name: "who waited for a latch is not asked whose keys they are now",
        rule: "R10",
        file: "src/engine/serve.rs",
        replace: "} else if ranges.iter().all(owned) {",
        with: "} else if ranges.iter().all(owned) || true {",
    },
    Mutant {
        name: "watchers do not move with their keys",
        rule: "R10",
        file: "src/shard/mod.rs",
        replace: "self.registry.import(moving.watchers);",
        with: "",
    },
    Mutant {
        name: "lease bindings do not move with their keys",
        rule: "R10",
        file: "src/shard/mod.rs",
        replace: "self.attached.bind(key, *lease);
        }
        self.store.import",
        with: "let _ = (key, lease);
        }
        self.store.import",
    },
    Mutant {
        name: "events behind the ones just released wait for an unrelated turn",
        rule: "R11",
        file: "src/engine/mod.rs",
        replace: "if !self.is_settled() || self.seats",
        with: "if self.seats",
    },
    Mutant {
        name: "a live watcher is sent again what it was told as history",
        rule: "R11",
        file: "src/watch/hub/release.rs",
        replace: "} else if event.revision >= watcher.next",
        with: "} else if event.revision > Revision::ZERO",
    },
    Mutant {
        name: "a registration without what is there already",
        rule: "R11",
        file: "src/engine/gather.rs",
        replace: "let history = shard.history(range, from, through, previous, REGISTER_BYTES_MAX);",
        with: "let mut history = shard.history(range, from, through, previous, REGISTER_BYTES_MAX);
                history.events.clear();",
    },
    Mutant {
        name: "acknowledgements leave before events",
        rule: "R11",
        file: "src/engine/mod.rs",
        replace: "self.begin_lanes();",
        with: "fx.mesh.append(&mut self.acks);
        self.begin_lanes();",
    },
    Mutant {
        name: "the watermark is loaded after the inbox was taken",
        rule: "R11",
        file: "src/engine/watching.rs",
        replace: "let now = self.hub_now(self.turn_watermark);",
        with: "let now = self.hub_now(self.order.watermark());",
    },
    Mutant {
        name: "the order inside a revision is lost across shards",
        rule: "R11",
        file: "src/engine/across.rs",
        replace: "per_lane.entry(lane).or_default().push((sub, write));",
        with: "let part = per_lane.entry(lane).or_default();
            let _ = sub;
            part.push((part.len() as u32, write));",
    },
    Mutant {
        name: "a write is acknowledged before it is durable",
        rule: "R12",
        file: "src/engine/mod.rs",
        replace: "let at_once = out.stored.is_empty() && self.unpersisted.is_empty();",
        with: "let at_once = true;",
    },
    Mutant {
        name: "a ready without records vouches for those before it",
        rule: "R12",
        file: "src/engine/mod.rs",
        replace: "let at_once = out.stored.is_empty() && self.unpersisted.is_empty();",
        with: "let at_once = out.stored.is_empty();",
    },
    Mutant {
        name: "a control record takes effect before the watermark reaches its stamp",
        rule: "R13",
        file: "src/engine/keeper.rs",
        replace: "if pending.index.is_none() || pending.stamp > watermark {",
        with: "if pending.index.is_none() || watermark < Revision::ZERO {",
    },
    Mutant {
        name: "a renewal is acknowledged before it is logged",
        rule: "R13",
        file: "src/engine/lease_life.rs",
        replace: "Some(renewed) if renewed.must_log => {",
        with: "Some(renewed) if renewed.must_log && false => {",
    },
    Mutant {
        name: "a shard answers below its compaction",
        rule: "R13",
        file: "src/engine/gather.rs",
        replace: "Reading::Range { at, .. } if at < compacted => Part::Compacted(compacted),",
        with: "",
    },
    Mutant {
        name: "a lease keeps keys that another lease has now",
        rule: "R13",
        file: "src/lease/index.rs",
        replace: "            self.forget(before, key);",
        with: "            let _ = (before, Self::forget);",
    },
    Mutant {
        name: "a key that its own transaction deletes again hangs on its lease",
        rule: "R13",
        file: "src/shard/install.rs",
        replace: "        self.attached.bind(key, lease);\n        if",
        with: "        if lease.is_some() {\n            self.attached.bind(key, lease);\n        }\n        if",
    },
    Mutant {
        name: "the image is of a revision above the watermark",
        rule: "R13",
        file: "src/engine/checkpointing.rs",
        replace: "let control = self.control_at(watermark);",
        with: "let watermark = self.order.counter();
        let control = self.control_at(watermark);",
    },
    Mutant {
        name: "the image is made before the watermark covers what was marked",
        rule: "R13",
        file: "src/engine/checkpointing.rs",
        replace: "self.checkpoint_awaits().is_none_or(|reach| reach > watermark)",
        with: "self.checkpoint_awaits().is_none()",
    },
    Mutant {
        name: "the image has a cut one entry too high",
        rule: "R13",
        file: "src/engine/checkpointing.rs",
        replace: "seat.group.cut_at(index)",
        with: "seat.group.cut_at(index + 1)",
    },
    Mutant {
        name: "the image lacks what its own revision wrote",
        rule: "R13",
        file: "src/mvcc/freeze.rs",
        replace: "while let Some(popped) = self.active.pop_above(at) {",
        with: "while let Some(popped) = self.active.pop_above(Revision(at.0 - 1)) {",
    },
    Mutant {
        name: "the image takes a version above it along",
        rule: "R13",
        file: "src/mvcc/freeze.rs",
        replace: "while let Some(popped) = self.active.pop_above(at) {",
        with: "while let Some(popped) = self.active.pop_above(at.next()) {",
    },
    Mutant {
        name: "the log loses a segment above the image",
        rule: "R13",
        file: "src/lane/retain.rs",
        replace: "first.or(self.segments.last_key_value()).map(|(&segment, _)| segment)",
        with: "first.or(self.segments.last_key_value()).map(|(&segment, _)| segment + 1)",
    },
    Mutant {
        name: "what the image holds is installed again",
        rule: "R13",
        file: "src/engine/past.rs",
        replace: "if revision > base && revision <= self.limit {",
        with: "if revision <= self.limit && base >= Revision::ZERO {",
    },
    Mutant {
        name: "a tombstone above the image is collected",
        rule: "R13",
        file: "src/mvcc/compact.rs",
        replace: "Some(false) if self.active.is_below(self.active.slots.key(slot)) => older - 1,",
        with: "",
    },
    Mutant {
        name: "the image is not told whose keys are whose after a move",
        rule: "R10",
        file: "src/engine/moves.rs",
        replace: "        self.own_ranges();",
        with: "",
    },
    Mutant {
        name: "a shard is asked for a lease's keys before all are latched",
        rule: "R9",
        file: "src/engine/across.rs",
        replace: "let steps = self.everywhere(&claim, &Want::Hold);\n        self.begin_op(Work::Revoke { lease, origin, round: Round::Lease }, steps, fx);",
        with: "let steps = self.everywhere(&claim, &Want::KeysOf(lease));\n        self.begin_op(Work::Revoke { lease, origin, round: Round::Ask }, steps, fx);",
    },
    Mutant {
        name: "a lease that is gone still has its time",
        rule: "R13",
        file: "src/engine/lease_life.rs",
        replace: "        keeper.clock.revoke(lease);",
        with: "",
    },
    Mutant {
        name: "a digest goes on behind a compaction",
        rule: "R13",
        file: "src/engine/whole.rs",
        replace: "&& (read.corrupt || overtaken)",
        with: "&& (read.corrupt || overtaken && false)",
    },
    Mutant {
        name: "a draft keeps what the next epoch voids",
        rule: "R5",
        file: "src/engine/past/draft.rs",
        replace: "if draft.store.highest() > cut {",
        with: "if draft.store.highest() > Revision::MAX {",
    },
    Mutant {
        name: "a draft keeps what an earlier epoch voided",
        rule: "R5",
        file: "src/engine/past/lane.rs",
        replace: "section.runs.last().is_none_or(|last| last <= limit)",
        with: "section.runs.last().is_none_or(|last| last <= limit.max(last))",
    },
    Mutant {
        name: "a shard that begins with a draft forgets leases",
        rule: "R9",
        file: "src/engine/past/draft.rs",
        replace: "shard.begin_with(self.store, owned, self.binds)",
        with: "shard.begin_with(self.store, owned, false)",
    },
    Mutant {
        name: "versions that other lanes wrote stay in their drafts",
        rule: "R8",
        file: "src/mvcc/deal.rs",
        replace: ".dismiss(|to| usize::from(to) != from, owners)",
        with: ".dismiss(|to| usize::from(to) > from, owners)",
    },
    Mutant {
        name: "a range is collected while it is on its way",
        rule: "R10",
        file: "src/engine/garbage.rs",
        replace: "if seat.is_sending() {",
        with: "if false {",
    },
    Mutant {
        name: "drafts are put together in the order of the lanes",
        rule: "R8",
        file: "src/mvcc/slots.rs",
        replace: "all.sort_by_key(Version::position);",
        with: "",
    },
    Mutant {
        name: "what is beneath a key is what was beneath the last lane that wrote it",
        rule: "R8",
        file: "src/mvcc/layer.rs",
        replace: "match oldest(&entry) < oldest(own) {",
        with: "match oldest(&entry) > oldest(own) {",
    },
];
