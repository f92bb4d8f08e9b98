//! One order over many logs: who hands out revisions, how far they may be trusted, and where a new
//! epoch cuts. Plain numbers and atomics; what a revision does is not known here.

pub mod epoch;
pub mod usage;
pub mod watermark;

pub use epoch::{Epoch, EpochRecord, Epochs, OutOfOrder, Runs};
pub use usage::Usage;
pub use watermark::Order;
