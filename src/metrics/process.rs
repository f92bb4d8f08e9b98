//! What the operating system says of this process, read from `/proc`: some small texts that no disk
//! holds, so that an executor may read them too.

use std::fs;

/// Facts about this process; what can not be read is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// User and system time.
    pub cpu_seconds: f64,
    /// Pages in memory.
    pub resident_bytes: u64,
    /// Address space.
    pub virtual_bytes: u64,
    /// Since 1970.
    pub start_time_seconds: f64,
    /// Open descriptors.
    pub open_fds: u64,
    /// How many there may be.
    pub max_fds: u64,
    /// Bytes that all interfaces of this network namespace received.
    pub received_bytes: u64,
    /// Bytes that they sent.
    pub transmitted_bytes: u64,
}

impl Process {
    /// Reads them.
    #[must_use]
    pub fn read() -> Process {
        let mut process = Process::default();
        if let Ok(stat) = fs::read_to_string("/proc/self/stat") {
            process.add_stat(&stat, ticks_per_second(), boot_time_seconds());
        }
        if let Ok(dev) = fs::read_to_string("/proc/self/net/dev") {
            process.add_interfaces(&dev);
        }
        process.open_fds = open_fds();
        process.max_fds = max_fds();
        process
    }

    /// Fields behind the name, which may hold blanks and parentheses itself.
    fn add_stat(&mut self, stat: &str, ticks_per_second: f64, boot_seconds: f64) {
        let fields: Vec<&str> =
            stat.rsplit_once(')').map_or(vec![], |(_, rest)| rest.split_whitespace().collect());
        let field = |n: usize| fields.get(n - 3).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
        self.cpu_seconds = (field(14) + field(15)) as f64 / ticks_per_second;
        self.start_time_seconds = boot_seconds + field(22) as f64 / ticks_per_second;
        self.virtual_bytes = field(23);
        // SAFETY: the call takes no memory.
        let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        self.resident_bytes = field(24) * u64::try_from(page_bytes).unwrap_or(4096);
    }

    fn add_interfaces(&mut self, dev: &str) {
        for line in dev.lines().skip(2) {
            let Some((_, numbers)) = line.split_once(':') else { continue };
            let mut numbers = numbers.split_whitespace().map(|n| n.parse::<u64>().unwrap_or(0));
            self.received_bytes += numbers.next().unwrap_or(0);
            self.transmitted_bytes += numbers.nth(7).unwrap_or(0);
        }
    }
}

fn ticks_per_second() -> f64 {
    // SAFETY: the call takes no memory.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    if ticks > 0 { ticks as f64 } else { 100.0 }
}

fn boot_time_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|seconds| seconds.trim().parse().ok()).unwrap_or(0.0)
}

/// Since Linux 6.2 the size of the directory is their number. Before, they have to be counted, the
/// directory's own handle being one of them; that takes long when there are many.
fn open_fds() -> u64 {
    match fs::metadata("/proc/self/fd").map_or(0, |directory| directory.len()) {
        0 => fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count().saturating_sub(1) as u64),
        count => count,
    }
}

fn max_fds() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: it writes into `limit`, which lives longer than the call.
    let answered = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    if answered == 0 { limit.rlim_cur } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_a_name_with_blanks_and_parentheses() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 1 0 0 0 250 50 0 0 20 0 5 0 3000 8192 2 \
                    18446744073709551615";
        let mut process = Process::default();
        process.add_stat(stat, 100.0, 1000.0);
        assert_eq!(process.cpu_seconds, 3.0);
        assert_eq!(process.start_time_seconds, 1030.0);
        assert_eq!(process.virtual_bytes, 8192);
        assert_eq!(process.resident_bytes % 2, 0);
        process.add_stat("garbage", 100.0, 0.0);
    }

    #[test]
    fn bytes_of_all_interfaces_are_summed() {
        let dev = "Inter-| Receive | Transmit\n face |bytes packets\n\
                   lo: 10 1 0 0 0 0 0 0 20 1 0 0 0 0 0 0\neth0:5 1 0 0 0 0 0 0 6 1 0 0 0 0 0 0\n";
        let mut process = Process::default();
        process.add_interfaces(dev);
        assert_eq!((process.received_bytes, process.transmitted_bytes), (15, 26));
    }

    #[test]
    fn this_process_has_a_size_and_descriptors() {
        let process = Process::read();
        assert!(process.resident_bytes > 0 && process.open_fds > 2 && process.max_fds > 2);
        assert!(process.start_time_seconds > 1e9);
    }
}
