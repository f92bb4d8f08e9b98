//! Processor time and memory, as the kernel counts them: ours, the server's, and everybody else's.
//! It knows /proc and nothing of the load.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// The unit of times in /proc: fixed at 100 a second in Linux's interface on every architecture.
const TICK: Duration = Duration::from_millis(10);

/// One reading of all clocks.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// When it was taken.
    pub at: Instant,
    /// Processor time of this process.
    pub own: Duration,
    /// Processor time of the servers; zero when none are watched.
    pub servers: Duration,
    /// Processor time of the whole machine, idle time left out.
    pub machine: Duration,
}

impl Usage {
    /// Reads all clocks now.
    ///
    /// # Errors
    /// When a server's process is gone or /proc cannot be read.
    pub fn read(server_pids: &[u32]) -> io::Result<Usage> {
        let mut servers = Duration::ZERO;
        for pid in server_pids {
            servers += process_time(&fs::read_to_string(format!("/proc/{pid}/stat"))?)
                .ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is not understood")))?;
        }
        let machine = machine_time(&fs::read_to_string("/proc/stat")?)
            .ok_or_else(|| io::Error::other("/proc/stat is not understood"))?;
        Ok(Usage { at: Instant::now(), own: own_time()?, servers, machine })
    }
}

/// Processor time of this process so far.
///
/// # Errors
/// When the kernel does not tell.
pub fn own_time() -> io::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros).unwrap_or(0)))
}

/// What lies between two readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// Wall clock.
    pub wall: Duration,
    /// This process.
    pub own: Duration,
    /// The servers.
    pub servers: Duration,
    /// Neither: what may have disturbed the measurement. It includes the kernel's own threads.
    pub foreign: Duration,
}

impl Spent {
    /// From one reading to a later one.
    #[must_use]
    pub fn between(before: &Usage, after: &Usage) -> Spent {
        let own = after.own.saturating_sub(before.own);
        let servers = after.servers.saturating_sub(before.servers);
        let machine = after.machine.saturating_sub(before.machine);
        Spent {
            wall: after.at - before.at,
            own,
            servers,
            foreign: machine.saturating_sub(own + servers),
        }
    }
}

/// Resident memory of a process in KiB: now, and at its highest.
#[must_use]
pub fn resident_kib(pid: u32) -> Option<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_end_matches("kB").trim().parse().ok()
    };
    Some((field("VmRSS:")?, field("VmHWM:")?))
}

/// User and system time from a line of /proc/PID/stat. The name in parentheses may hold anything, so fields
/// are counted from the last parenthesis.
fn process_time(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(TICK * user + TICK * system)
}

/// Everything but idle and waiting from the first line of /proc/stat.
fn machine_time(stat: &str) -> Option<Duration> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> =
        line.split_ascii_whitespace().map(|n| n.parse().ok()).collect::<Option<_>>()?;
    // user nice system idle iowait irq softirq steal; guest time is already in user.
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks[..] else { return None };
    Some(Duration::from_millis(10 * (user + nice + system + irq + softirq)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_are_read_whatever_the_process_is_called() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 1 2 3 4 150 50 9 9 20 0 4 0 100 1 1";
        assert_eq!(process_time(stat), Some(Duration::from_secs(2)));
        assert_eq!(process_time("7 nonsense"), None);
        let stat = "cpu  100 0 50 9999 77 10 40 5 0 0\ncpu0 1 1 1\n";
        assert_eq!(machine_time(stat), Some(Duration::from_secs(2)));
    }

    #[test]
    fn own_time_is_seen_by_all_three_clocks() {
        let me = std::process::id();
        let before = Usage::read(&[me]).unwrap();
        while own_time().unwrap() < before.own + Duration::from_millis(80) {}
        let spent = Spent::between(&before, &Usage::read(&[me]).unwrap());
        assert!(spent.own >= Duration::from_millis(80));
        assert!(spent.servers >= Duration::from_millis(50), "{spent:?}");
        assert!(resident_kib(me).is_some_and(|(now, peak)| now > 0 && peak >= now));
    }
}
