//! Signals that ask a process to stop. They are blocked in every thread and taken by one of its own,
//! so that nothing ever runs in a signal handler.

use std::io;
use std::mem::MaybeUninit;

const STOPPING: [(libc::c_int, &str); 2] =
    [(libc::SIGTERM, "terminated"), (libc::SIGINT, "interrupt")];

/// Blocks the signals in this thread and in all that it starts from now on. To be called before the
/// first one is.
pub(super) fn block() {
    let set = stopping();
    // SAFETY: the set is initialised and outlives the call; null is no place for the old one.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
}

/// Tells `each` of every such signal by the name that etcd logs, from a thread of its own.
///
/// # Errors
/// The operating system gives no thread.
pub(super) fn watch(mut each: impl FnMut(&'static str) + Send + 'static) -> io::Result<()> {
    let wait = move || {
        let set = stopping();
        loop {
            let mut signal = 0;
            // SAFETY: both outlive the call, which only fails for an invalid set.
            if unsafe { libc::sigwait(&raw const set, &raw mut signal) } != 0 {
                return;
            }
            let name = STOPPING.iter().find(|(number, _)| *number == signal);
            each(name.map_or("unknown", |(_, name)| name));
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).map(drop)
}

fn stopping() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set before anything is added or read.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for (signal, _) in STOPPING {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}
