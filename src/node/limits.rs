//! What this machine must give before a member starts: rings, locked memory, descriptors, CPUs.
//! glommio would notice some of it later and in other words, so it is looked at here, first.

use std::io;

use super::failure::Failure;

/// glommio makes no executor under a smaller limit on locked memory. More is not needed, however
/// many cores there are: what can not be registered is used unregistered.
const MEMLOCK_BYTES: u64 = 512 << 10;

/// Descriptors of one core besides connections: rings, eventfds, listeners, segments.
const FILES_PER_CORE: u64 = 32;

/// And of the process.
const FILES: u64 = 64;

/// What there is, for the banner.
#[derive(Debug, Clone, Default)]
pub(super) struct Machine {
    /// Name and release of the kernel.
    pub kernel: String,
    /// Features of io_uring, as the kernel numbers them.
    pub uring_features: u32,
    /// Bytes that may be locked; `u64::MAX` for no limit.
    pub memlock_bytes: u64,
    /// Descriptors that may be open.
    pub nofile: u64,
}

/// The CPUs that this process may run on, ascending.
#[must_use]
pub fn cpus() -> Vec<usize> {
    // SAFETY: all zeros is an empty set, and the call writes at most its size.
    let (set, answer) = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let answer = libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set);
        (set, answer)
    };
    // SAFETY: the set is initialised and the number within its size.
    let has = |cpu: usize| unsafe { libc::CPU_ISSET(cpu, &set) };
    let bits = 8 * size_of::<libc::cpu_set_t>();
    let cpus: Vec<usize> = (0..bits).filter(|cpu| answer == 0 && has(*cpu)).collect();
    if cpus.is_empty() { vec![0] } else { cpus }
}

/// Looks whether `cores` executors can live here, and raises the limits as far as they go.
///
/// # Errors
/// [`Failure::Uring`], [`Failure::Limit`].
pub(super) fn check(cores: u16) -> Result<Machine, Failure> {
    let uring_features = probe_uring().map_err(|source| Failure::Uring { source })?;
    let memlock_bytes = raise(libc::RLIMIT_MEMLOCK);
    if memlock_bytes < MEMLOCK_BYTES {
        return Err(Failure::Limit {
            what: "the limit on locked memory (RLIMIT_MEMLOCK, bytes)",
            limit: memlock_bytes,
            needed: MEMLOCK_BYTES,
            cores,
            remedy: "'ulimit -l', LimitMEMLOCK= of systemd, or --ulimit memlock= of docker",
        });
    }
    let nofile = raise(libc::RLIMIT_NOFILE);
    let needed = FILES + FILES_PER_CORE * u64::from(cores);
    if nofile < needed {
        return Err(Failure::Limit {
            what: "the limit on open files (RLIMIT_NOFILE)",
            limit: nofile,
            needed,
            cores,
            remedy: "'ulimit -n', LimitNOFILE= of systemd, or --ulimit nofile= of docker",
        });
    }
    Ok(Machine { kernel: kernel(), uring_features, memlock_bytes, nofile })
}

/// Registers for expedited memory barriers. Before the first thread, it is immediate; with threads,
/// the first sleep of an executor would wait for it.
pub(super) fn register_membarrier() {
    const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;
    // SAFETY: the call takes numbers only. An old kernel refuses, and glommio does without.
    unsafe { libc::syscall(libc::SYS_membarrier, REGISTER_PRIVATE_EXPEDITED, 0, 0) };
}

/// Makes a ring and gives it back: whether there is io_uring, and with which features.
fn probe_uring() -> io::Result<u32> {
    // `struct io_uring_params`: 30 numbers of 32 bits; the sixth is what the kernel can do.
    let mut params = [0_u32; 30];
    // SAFETY: the kernel reads and writes exactly that structure, which outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else has it.
    unsafe { libc::close(fd as libc::c_int) };
    Ok(params[5])
}

/// Raises a limit of this process to the most that it may have, and returns what it is then.
fn raise(resource: libc::__rlimit_resource_t) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: it writes into `limit`, which outlives the call.
    unsafe { libc::getrlimit(resource, &raw mut limit) };
    if limit.rlim_cur < limit.rlim_max {
        let wanted = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
        // SAFETY: it reads `wanted`, which outlives the call. A refusal leaves the old limit.
        if unsafe { libc::setrlimit(resource, &raw const wanted) } == 0 {
            limit = wanted;
        }
    }
    limit.rlim_cur
}

fn kernel() -> String {
    // SAFETY: all zeros are empty texts, and the call writes terminated ones.
    let name = unsafe {
        let mut name: libc::utsname = std::mem::zeroed();
        libc::uname(&raw mut name);
        name
    };
    let text = |field: &[libc::c_char]| {
        let bytes = field.iter().take_while(|byte| **byte != 0).map(|byte| *byte as u8);
        String::from_utf8_lossy(&bytes.collect::<Vec<u8>>()).into_owned()
    };
    format!("{} {}", text(&name.sysname), text(&name.release))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_run_a_core() {
        let machine = check(1).expect("the tests need io_uring and usual limits");
        assert!(machine.kernel.starts_with("Linux ") && machine.nofile >= FILES);
        let cpus = cpus();
        assert!(!cpus.is_empty() && cpus.is_sorted());
    }

    #[test]
    fn too_few_descriptors_are_told_with_the_remedy() {
        let failure = check(u16::MAX).expect_err("nobody has two million descriptors");
        assert_eq!(failure.code(), 11);
        assert!(failure.to_string().contains("ulimit"), "{failure}");
    }
}
