//! Watching keys. A shard's registry says who watches what it changes; a connection core's hub keeps
//! the watch streams of its clients and releases events in revision order. Pure state: no sockets.

/// Names a client's watch stream on its connection core; never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(pub u64);
