//! What a replica costs: its memory and its time on the processors, as the kernel counts them.

use std::{fs, time::Duration};

/// What one process has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Time on the processors.
    pub processor: Duration,
    /// Memory that is in use now, in kilobytes.
    pub memory_kb: u64,
}

/// What the process has used; nothing if it is gone.
pub fn usage(pid: u32) -> Usage {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name of the program, in parentheses, may hold spaces; the state follows it.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    // Linux counts in hundredths of a second, whatever its own clock.
    Usage { processor: Duration::from_millis((ticks(11) + ticks(12)) * 10), memory_kb: memory.unwrap_or(0) }
}

/// Whether the process is stopped by a signal.
pub fn is_frozen(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_runs_has_used_something() {
        let own = usage(std::process::id());
        assert!(own.memory_kb > 0 && !is_frozen(std::process::id()), "{own:?}");
        assert_eq!(usage(u32::MAX).memory_kb, 0);
    }
}
