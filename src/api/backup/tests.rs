use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use super::*;
use crate::api::Caller;
use crate::api::tests::double::{Stream, World};
use crate::engine::Error;

const PATH: &str = "etcdserverpb.Maintenance/Snapshot";

/// Pieces in memory, and how many of them were read.
#[derive(Clone, Default)]
struct Pieces {
    pieces: Rc<RefCell<VecDeque<io::Result<Bytes>>>>,
    len_bytes: u64,
    read: Rc<Cell<usize>>,
}

impl Pieces {
    fn new(pieces: Vec<Bytes>) -> Pieces {
        let len_bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        let pieces = pieces.into_iter().map(Ok).collect();
        Pieces { pieces: Rc::new(RefCell::new(pieces)), len_bytes, read: Rc::default() }
    }
}

impl Source for Pieces {
    fn open(&self) -> Later<'_, io::Result<Box<dyn Backup>>> {
        let backup: Box<dyn Backup> = Box::new(self.clone());
        Box::pin(async { Ok(backup) })
    }
}

impl Backup for Pieces {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn read(&mut self) -> Later<'_, io::Result<Bytes>> {
        self.read.set(self.read.get() + 1);
        let next = self.pieces.borrow_mut().pop_front().unwrap_or(Ok(Bytes::new()));
        Box::pin(async { next })
    }
}

/// Bytes that differ from each other, so that a mix-up shows.
fn bytes(len: usize) -> Bytes {
    (0..len).map(|at| (at * 31 % 251) as u8).collect::<Vec<_>>().into()
}

fn world(pieces: &Pieces) -> (World, Stream) {
    let mut world = World::with_source(Some(Rc::new(pieces.clone())));
    let mut stream = world.open(PATH, Caller::default());
    world.send(&stream, &pb::SnapshotRequest {});
    world.close_send(&mut stream);
    (world, stream)
}

fn all(world: &mut World, stream: &mut Stream) -> Vec<pb::SnapshotResponse> {
    std::iter::from_fn(|| world.receive_or_end(stream)).collect()
}

#[test]
fn a_backup_is_streamed_in_blobs_and_ends_with_its_digest() {
    let whole = bytes(200 << 10);
    let cuts = [0, 1 << 10, (1 << 10) + 1, 150 << 10, 200 << 10];
    let pieces = cuts.windows(2).map(|cut| whole.slice(cut[0]..cut[1])).collect();
    let (mut world, mut stream) = world(&Pieces::new(pieces));
    assert_eq!(world.model.asked, [Request::Checkpoint], "what was acknowledged is in it");
    let responses = all(&mut world, &mut stream);
    assert_eq!(stream.end, None);
    let (last, blobs) = responses.split_last().expect("at least the digest");
    let mut got = Vec::new();
    for response in blobs {
        assert!(response.blob.len() <= 32 << 10 && response.header.is_none());
        got.extend_from_slice(&response.blob);
        assert_eq!(response.remaining_bytes, (whole.len() - got.len()) as u64);
        assert_eq!(response.version, "3.7.0");
    }
    assert!(got == whole);
    assert_eq!(last.remaining_bytes, 0);
    assert_eq!(last.blob[..], Sha256::digest(&whole)[..]);
}

#[test]
fn no_more_is_read_than_a_slow_client_takes() {
    let pieces = Pieces::new(vec![bytes(64 << 10); 100]);
    let (mut world, mut stream) = world(&pieces);
    assert!(pieces.read.get() <= 6, "{} pieces of 64 KiB", pieces.read.get());
    for _ in 0..20 {
        world.receive::<pb::SnapshotResponse>(&mut stream).expect("a blob");
    }
    assert!((10..=17).contains(&pieces.read.get()), "{}", pieces.read.get());
    // The client goes, and with it the work.
    stream.responses = None;
    world.run();
    assert!(!world.serves(&stream));
    assert!(pieces.read.get() <= 17);
}

#[test]
fn what_can_not_be_read_ends_without_a_digest() {
    let damaged = io::Error::new(io::ErrorKind::InvalidData, "block 7 is damaged");
    let pieces = Pieces::new(vec![bytes(512), bytes(512)]);
    pieces.pieces.borrow_mut()[1] = Err(damaged);
    let (mut world, mut stream) = world(&pieces);
    assert_eq!(all(&mut world, &mut stream).len(), 1);
    let end = stream.end.expect("an error");
    assert_eq!((end.code, &*end.message), (Code::Unknown, "block 7 is damaged"));
}

#[test]
fn a_backup_of_another_length_than_it_said_is_no_backup() {
    for wrong in [768_u64, 1536] {
        let pieces = Pieces { len_bytes: wrong, ..Pieces::new(vec![bytes(512), bytes(512)]) };
        let (mut world, mut stream) = world(&pieces);
        let blobs = all(&mut world, &mut stream);
        assert!(blobs.iter().all(|response| response.blob.len() == 512), "no digest");
        assert_eq!(stream.end.map(|end| end.code), Some(Code::Unknown));
    }
}

#[test]
fn without_a_leader_nothing_is_sent() {
    let mut world = World::with_source(Some(Rc::new(Pieces::new(vec![bytes(512)]))));
    world.model.refuses = Some(Error::NoLeader);
    let mut stream = world.open(PATH, Caller::default());
    world.send(&stream, &pb::SnapshotRequest {});
    assert_eq!(all(&mut world, &mut stream), []);
    assert_eq!(stream.end, Some(Status::NO_LEADER));
}
