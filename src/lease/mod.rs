//! Leases. A shard's [`Index`] knows which keys hang on which lease; every core's [`Table`] knows
//! which leases there are; the [`Clock`], on the core that keeps control state, knows how long they
//! have. Pure state: time comes in as a number, and who logs what is decided elsewhere.

mod clock;
mod index;
mod table;

pub use clock::{Clock, Renewed};
pub use index::{Binding, Index};
pub use table::Table;
