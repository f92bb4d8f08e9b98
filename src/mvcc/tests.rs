//! The store by transcripts, and against a model.

mod deal;
mod layers;
mod memory;
mod model;
mod random;
mod replay;
mod transcripts;
mod walks;

pub(super) use memory::Images;
pub(super) use random::Random;
