//! The etcd v3 API as Rust types, one module per protobuf package.
//!
//! The `.proto` files under `proto/` are the contract; everything here is generated from them when
//! the crate is built. This crate knows the shape of messages and the names of methods. It does not
//! know what they do, nor how they travel.

pub mod shape;

#[allow(missing_docs, clippy::all)]
mod packages {
    include!(concat!(env!("OUT_DIR"), "/packages.rs"));
}

pub use packages::{authpb, etcdserverpb, grpc, mvccpb, v3electionpb, v3lockpb};

/// The encoded `google.protobuf.FileDescriptorSet` of all packages, each file after those it
/// imports: what a reflection service hands out.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// How many messages go each way in a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// One request, one response.
    Unary,
    /// One request, any number of responses.
    ServerStream,
    /// Any number of requests, one response.
    ClientStream,
    /// Any number both ways.
    BidiStream,
}

/// One method of one service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Method {
    /// Full name of the service, as `etcdserverpb.KV`.
    pub service: &'static str,
    /// As `Put`. The path of a gRPC call is `/<service>/<name>`.
    pub name: &'static str,
    /// Which sides stream.
    pub kind: Kind,
    /// Full name of the request message, as `etcdserverpb.PutRequest`.
    pub input: &'static str,
    /// Full name of the response message.
    pub output: &'static str,
}

/// Every method of every service, from the descriptors.
pub const METHODS: &[Method] = include!(concat!(env!("OUT_DIR"), "/methods.rs"));

#[cfg(test)]
mod tests;
