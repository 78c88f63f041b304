//! What a run says at its end, with its figures last.

use std::{fmt, fmt::Write as _, sync::atomic::Ordering, time::Duration};

use super::{
    measures::{Cost, WarmReads},
    tally::{Operation, Violation},
    world::World,
};

/// What came of a run.
#[derive(Default)]
pub struct Report {
    /// By operation, in the order of [`Operation::ALL`].
    pub operations: Vec<u64>,
    pub violations: Vec<Violation>,
    /// The tally in words.
    pub tally: String,
    /// Sorted.
    pub revocations: Vec<Duration>,
    pub warm: WarmReads,
    pub fresh_again: Option<Duration>,
    /// With the names of the moments.
    pub costs: Vec<(&'static str, Cost)>,
    /// Replicas that ended without having been killed.
    pub ended_by_themselves: u64,
    pub took: Duration,
}

/// Upper ends of the histogram's steps, in milliseconds.
const STEPS: [u64; 14] = [10, 25, 50, 75, 100, 125, 150, 175, 200, 225, 250, 300, 500, 1_000];

impl Report {
    /// Takes the counts out of `world`.
    pub fn count(&mut self, world: &World) {
        self.operations = Operation::ALL.iter().map(|operation| world.tally.operations(*operation)).collect();
        self.violations = world.tally.violations();
        self.tally = world.tally.to_string();
        self.ended_by_themselves =
            world.fleet.iter().map(|member| member.ended_by_itself.load(Ordering::Relaxed)).sum();
        self.took = world.clock.now().since(super::clock::Moment::at_millis(0));
    }

    /// How often this was done.
    pub fn counts(&self, operation: Operation) -> u64 {
        self.operations.get(operation as usize).copied().unwrap_or(0)
    }

    /// The revocation that so many in a hundred do not exceed.
    pub fn percentile(&self, percent: usize) -> Option<Duration> {
        let rank = (self.revocations.len() * percent).div_ceil(100).checked_sub(1)?;
        self.revocations.get(rank).copied()
    }

    fn histogram(&self) -> String {
        let mut counts = Vec::new();
        let mut below = Duration::ZERO;
        for step in STEPS {
            let end = Duration::from_millis(step);
            counts.push((below, end, self.revocations.iter().filter(|took| (below..end).contains(*took)).count()));
            below = end;
        }
        let most = counts.iter().map(|(_, _, count)| *count).max().unwrap_or(0).max(1);
        let mut out = String::new();
        for (begin, end, count) in counts {
            let bar = "#".repeat(count * 50 / most);
            let _ = writeln!(out, "  {:>5} to {:>5} ms  {count:>6}  {bar}", begin.as_millis(), end.as_millis());
        }
        let longer = self.revocations.iter().filter(|took| **took >= below).count();
        let _ = writeln!(out, "  {:>5} ms or more    {longer:>6}", below.as_millis());
        out
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.tally)?;
        if !self.revocations.is_empty() {
            writeln!(f, "from Delete to the last replica's first refusal, {} deletions", self.revocations.len())?;
            writeln!(f, "{}", self.histogram())?;
        }
        for (moment, cost) in &self.costs {
            let each = cost.processor_percent.iter().zip(&cost.memory_kb);
            let each: Vec<String> = each.map(|(percent, memory)| format!("{percent} % and {memory} KB")).collect();
            writeln!(f, "replicas {moment}: {}", each.join(", "))?;
        }
        writeln!(f, "warm validations: {}, which read {} times", self.warm.validations, self.warm.reads)?;
        writeln!(f, "replicas that ended without having been killed: {}", self.ended_by_themselves)?;
        for violation in self.violations.iter().filter(|violation| !violation.story.is_empty()) {
            writeln!(f, "VIOLATION {violation}")?;
        }
        writeln!(f, "\nrun of {} s", self.took.as_secs())?;
        writeln!(f, "operations: {}", self.operations.iter().sum::<u64>())?;
        writeln!(f, "violations: {}", self.violations.len())?;
        if let Some(p99) = self.percentile(99) {
            writeln!(f, "revocation_p99_ms: {}", p99.as_millis())?;
        }
        if self.warm.validations > 0 {
            writeln!(f, "reads_per_warm_validate: {}", per_validation(self.warm))?;
        }
        if let Some(fresh_again) = self.fresh_again {
            writeln!(f, "fresh_again_ms: {}", fresh_again.as_millis())?;
        }
        Ok(())
    }
}

/// With so many digits as it takes, and 0 only for none at all.
fn per_validation(warm: WarmReads) -> String {
    if warm.reads == 0 {
        return "0".to_owned();
    }
    let millionths = u128::from(warm.reads) * 1_000_000 / u128::from(warm.validations.max(1));
    format!("{}.{:06}", millionths / 1_000_000, millionths % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_off_as_they_are() {
        let revocations = (1..=200).map(Duration::from_millis).collect();
        let report = Report { revocations, ..Report::default() };
        assert_eq!(report.percentile(99), Some(Duration::from_millis(198)));
        assert_eq!(Report::default().percentile(99), None);
        assert_eq!(per_validation(WarmReads { validations: 3, reads: 6 }), "2.000000");
        assert_eq!(per_validation(WarmReads { validations: 1_000_000, reads: 1 }), "0.000001");
        assert_eq!(per_validation(WarmReads { validations: 9, reads: 0 }), "0");
    }
}
