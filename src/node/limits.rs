//! What this machine must give before a member starts: rings, locked memory, descriptors, CPUs.
//! glommio would notice some of it later and in other words, so it is looked at here, first.

use std::io;
use std::path::{Path, PathBuf};

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

/// Memory that this process may use: that of the machine, or less by the limit of a cgroup that it is in.
#[must_use]
pub(super) fn memory_bytes() -> u64 {
    // SAFETY: it takes numbers and returns numbers.
    let (pages, size) =
        unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    let machine = u64::try_from(pages).and_then(|pages| Ok(pages * u64::try_from(size)?));
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    machine.unwrap_or(u64::MAX).min(group_bytes(read))
}

/// The least limit of the memory cgroups that the process is in, of either version; `u64::MAX` without one. In a
/// container the path can be that of the host, of which only the first part is to be seen.
fn group_bytes(read: impl Fn(&Path) -> Option<String>) -> u64 {
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let mut least = u64::MAX;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|one| one == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            let limit = read(&PathBuf::from(root).join(group).join(file));
            // "max" is no number, and no limit.
            let limit = limit.and_then(|text| text.trim().parse().ok());
            least = least.min(limit.unwrap_or(u64::MAX));
        }
    }
    least
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

/// Says whether new memory may come in huge pages, of which the allocator asks for many, and returns whether
/// it might before.
///
/// Not while a start fills memory: what is full of small things ends in the middle of many huge pages, which
/// all count (as much as a fifth more), and in a virtual machine that reports its free memory they are just
/// what the host has taken back: to get them again took three times as long as small ones.
pub(super) fn allow_huge_pages(allowed: bool) -> bool {
    let disabled = libc::c_ulong::from(!allowed);
    // SAFETY: the calls take numbers only. A kernel that refuses leaves things as they are.
    unsafe {
        let before = libc::prctl(libc::PR_GET_THP_DISABLE, 0_u64, 0_u64, 0_u64, 0_u64);
        libc::prctl(libc::PR_SET_THP_DISABLE, disabled, 0_u64, 0_u64, 0_u64);
        before == 0
    }
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
    fn the_least_limit_of_all_groups_counts() {
        let limit = |files: &[(&str, &str)]| {
            group_bytes(|path| {
                let found = files.iter().find(|(name, _)| Path::new(name) == path);
                found.map(|(_, text)| (*text).to_owned())
            })
        };
        let own = "/proc/self/cgroup";
        assert_eq!(limit(&[]), u64::MAX);
        assert_eq!(
            limit(&[(own, "0::/a/b\n"), ("/sys/fs/cgroup/a/b/memory.max", "max\n")]),
            u64::MAX
        );
        let parent = ("/sys/fs/cgroup/a/memory.max", "4096\n");
        let child = ("/sys/fs/cgroup/a/b/memory.max", "8192\n");
        assert_eq!(limit(&[(own, "0::/a/b\n"), parent, child]), 4096);
        let first = "12:cpu:/\n4:hugetlb,memory:/docker/x\n0::/\n";
        let seen = ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n");
        assert_eq!(limit(&[(own, first), seen]), 1 << 30);
        assert!(memory_bytes() > 1 << 20);
    }

    #[test]
    fn too_few_descriptors_are_told_with_the_remedy() {
        let failure = check(u16::MAX).expect_err("nobody has two million descriptors");
        assert_eq!(failure.code(), 11);
        assert!(failure.to_string().contains("ulimit"), "{failure}");
    }
}
