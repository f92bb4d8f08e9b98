//! The log on a disk in memory: what was reported durable comes back, in order, or opening refuses
//! and names the place. Each file here asks this of one kind of mishap.

mod crashes;
mod damage;
mod disk;
mod failures;
mod full;
mod idle;
mod model;
mod recycling;
