//! The `cored` server: reads its flags, starts a member, waits for a signal, drains.

fn main() {}
