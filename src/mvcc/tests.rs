//! The store by transcripts, and against a model.

mod layers;
mod model;
mod random;
mod transcripts;

pub(super) use random::Random;
