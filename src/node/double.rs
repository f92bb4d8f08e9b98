//! Stands in for the engine while it is built: the same words, and the least that makes a node run.
//! It logs a record per write and answers when that is durable.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use cored_proto::etcdserverpb as pb;

use crate::api::door::WatchInput;
use crate::engine::{Answer, Error, RangeReply, Reply, Request, RequestId, StatusReply};
use crate::keys::{CoreId, LaneId, Revision};
use crate::lane::{Group, Output, Recovered, Stored};
use crate::order::Order;
use crate::watch::StreamId;

#[derive(Debug, Default, Clone)]
#[allow(dead_code)]
pub struct HubConfig {
    pub cluster_id: u64,
    pub member_id: u64,
    pub max_request_bytes: usize,
    pub progress_notify_ms: u64,
    pub waiting_bytes_max: usize,
    pub history_bytes: usize,
}

#[derive(Debug)]
pub struct Setup {
    pub core: CoreId,
    pub cores: u16,
    pub lanes: u16,
    pub member: u64,
    pub order: Arc<Order>,
    pub past: Arc<Past>,
    pub groups: Vec<(LaneId, Recovered)>,
    pub hub: HubConfig,
}

#[derive(Debug, Default)]
pub struct Past;

#[derive(Debug, Default)]
pub struct Recovery {
    pub past: Arc<Past>,
    pub lanes: Vec<Recovered>,
}

#[derive(Debug, thiserror::Error)]
#[error("lane {0}: {1}")]
pub struct RecoverError(usize, String);

pub fn recover(records: Vec<Vec<(u8, Bytes)>>) -> Result<Recovery, RecoverError> {
    let lanes = records.into_iter().enumerate();
    let lanes = lanes.map(|(n, records)| {
        Recovered::assemble(records).map_err(|e| RecoverError(n, e.to_string()))
    });
    Ok(Recovery { past: Arc::new(Past), lanes: lanes.collect::<Result<_, _>>()? })
}

#[derive(Debug)]
pub enum Message {
    Replayed,
    Collected { upto: Revision },
}

#[derive(Debug)]
pub enum Input {
    Request(RequestId, Request),
    Abandoned(RequestId),
    Watch(StreamId, WatchInput),
    Mesh(CoreId, Message),
    Persisted(u64),
    Tick,
    Stop,
}

#[derive(Debug, Default)]
pub struct Effects {
    pub records: Vec<(LaneId, Stored)>,
    pub turn: Option<u64>,
    pub carry: Vec<(LaneId, Stored)>,
    pub mesh: Vec<(CoreId, Message)>,
    pub wake: Vec<CoreId>,
    pub answers: Vec<(RequestId, Result<Answer, Error>)>,
    pub watch: Vec<(StreamId, Bytes)>,
    pub serves: bool,
}

pub struct Engine {
    groups: Vec<Group>,
    turn: u64,
    waiting: VecDeque<(u64, RequestId)>,
    readies: VecDeque<(u64, usize, u64)>,
    batch: Vec<RequestId>,
    served: bool,
    stopping: bool,
}

impl Engine {
    pub fn new(setup: Setup) -> Engine {
        let groups = setup.groups.into_iter();
        Engine {
            groups: groups.map(|(lane, past)| Group::new(lane, setup.member, past)).collect(),
            turn: 0,
            waiting: VecDeque::new(),
            readies: VecDeque::new(),
            batch: Vec::new(),
            served: false,
            stopping: false,
        }
    }

    pub fn begin(&mut self) {}

    pub fn step(&mut self, input: Input, _now_ms: u64, fx: &mut Effects) {
        match input {
            Input::Request(id, Request::Put(_)) => self.batch.push(id),
            Input::Request(id, request) => {
                let reply = match request {
                    Request::Status => Reply::Status(StatusReply::default()),
                    Request::Range(_) => Reply::Range(RangeReply::default()),
                    _ => Reply::Done,
                };
                fx.answers.push((id, Ok(Answer { revision: Revision(1), reply })));
            }
            Input::Persisted(turn) => {
                while let Some((oldest, at, ready)) = self.readies.front()
                    && *oldest <= turn
                {
                    self.groups[*at].persisted(*ready);
                    self.readies.pop_front();
                }
                while let Some((oldest, id)) = self.waiting.front()
                    && *oldest <= turn
                {
                    let reply = Reply::Put(pb::PutResponse::default());
                    fx.answers.push((*id, Ok(Answer { revision: Revision(2), reply })));
                    self.waiting.pop_front();
                }
            }
            Input::Stop => self.stopping = true,
            Input::Abandoned(_) | Input::Watch(..) | Input::Mesh(..) | Input::Tick => {}
        }
    }

    pub fn flush(&mut self, _now_ms: u64, fx: &mut Effects) {
        for at in 0..self.groups.len() {
            let group = &mut self.groups[at];
            if !group.is_leader() {
                group.campaign();
            }
            if at == 0 && group.is_leader() && !self.batch.is_empty() {
                group.propose(vec![1]).expect("leads");
                let turn = self.turn + 1;
                self.waiting.extend(self.batch.drain(..).map(|id| (turn, id)));
            }
            let mut out = Output::default();
            group.drain(&mut out);
            if out.ready.is_some() && out.stored.is_empty() {
                group.persisted(out.ready.expect("just seen"));
            } else if let Some(ready) = out.ready {
                let turn = *fx.turn.get_or_insert(self.turn + 1);
                self.readies.push_back((turn, at, ready));
                fx.carry.push((group.lane(), group.carry()));
                fx.records.extend(out.stored.drain(..).map(|stored| (group.lane(), stored)));
            }
            if let Some(last) = out.committed.last() {
                group.applied(last.index);
            }
        }
        self.turn = fx.turn.unwrap_or(self.turn);
        if !self.served && self.groups.iter().all(Group::is_leader) {
            self.served = true;
            fx.serves = true;
        }
    }

    pub fn wants_turn(&self) -> bool {
        !self.served
    }

    pub fn term(&self) -> u64 {
        self.groups.first().map_or(0, Group::term)
    }

    pub fn sizes(&self) -> StatusReply {
        StatusReply::default()
    }

    pub fn drained(&self) -> bool {
        self.stopping && self.waiting.is_empty() && self.readies.is_empty()
    }
}
