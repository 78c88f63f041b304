//! Counting: operations, faults by kind, and what was found.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::Notify;

use super::{clock::Moment, judge::Rule};

/// What was done and found so far.
#[derive(Default)]
pub struct Tally {
    operations: [AtomicU64; Operation::ALL.len()],
    faults: [AtomicU64; Fault::ALL.len()],
    answers: Mutex<BTreeMap<String, u64>>,
    found: Mutex<Vec<Violation>>,
    found_first: Notify,
}

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Validate,
    ValidateForged,
    ValidateUnborn,
    ValidateAtLeast,
    ValidateStreamed,
    Create,
    Update,
    Rotate,
    Delete,
}

/// What befalls the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Late,
    Silent,
    Reset,
    Cut,
    HalfOpen,
    Astray,
    Killed,
    Frozen,
    DatabaseRestarted,
    StandbyPromoted,
    WriterFrozen,
    NewEpoch,
}

/// An answer that broke a rule.
#[derive(Clone, Debug)]
pub struct Violation {
    pub rule: Rule,
    pub when: Moment,
    /// Everything that is needed to see why.
    pub story: String,
}

/// How many violations are kept in words; all are counted.
const KEPT: usize = 50;
/// The longest story that is kept, in characters.
const LONGEST_STORY: usize = 1_200;

impl Operation {
    pub const ALL: [Self; 9] = [
        Self::Validate,
        Self::ValidateForged,
        Self::ValidateUnborn,
        Self::ValidateAtLeast,
        Self::ValidateStreamed,
        Self::Create,
        Self::Update,
        Self::Rotate,
        Self::Delete,
    ];
}

impl Fault {
    pub const ALL: [Self; 12] = [
        Self::Late,
        Self::Silent,
        Self::Reset,
        Self::Cut,
        Self::HalfOpen,
        Self::Astray,
        Self::Killed,
        Self::Frozen,
        Self::DatabaseRestarted,
        Self::StandbyPromoted,
        Self::WriterFrozen,
        Self::NewEpoch,
    ];

    /// In words.
    pub fn told(self) -> &'static str {
        match self {
            Self::Late => "answers of the database late",
            Self::Silent => "connections accepted and never answered",
            Self::Reset => "connections reset",
            Self::Cut => "connections cut in mid-packet",
            Self::HalfOpen => "connections half open",
            Self::Astray => "connections led to the standby",
            Self::Killed => "replicas killed (SIGKILL)",
            Self::Frozen => "replicas frozen (SIGSTOP, SIGCONT)",
            Self::DatabaseRestarted => "restarts of the database",
            Self::StandbyPromoted => "promotions of the standby",
            Self::WriterFrozen => "writers frozen with a number in hand",
            Self::NewEpoch => "new epochs",
        }
    }
}

impl Tally {
    /// Counts an operation that was answered, whatever the answer.
    pub fn count(&self, operation: Operation) {
        self.operations[operation as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a fault.
    pub fn befell(&self, fault: Fault) {
        self.faults[fault as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts what Validate answered.
    pub fn answered(&self, answer: &str) {
        let mut answers = self.answers.lock().expect("nobody panics here");
        match answers.get_mut(answer) {
            Some(count) => *count += 1,
            None => drop(answers.insert(answer.to_owned(), 1)),
        }
    }

    /// Notes a violation.
    pub fn found(&self, violation: Violation) {
        let mut found = self.found.lock().expect("nobody panics here");
        let kept = if found.len() < KEPT { LONGEST_STORY } else { 0 };
        let Violation { rule, when, story } = violation;
        found.push(Violation { rule, when, story: story.chars().take(kept).collect() });
        self.found_first.notify_waiters();
    }

    /// How often this was done.
    pub fn operations(&self, operation: Operation) -> u64 {
        self.operations[operation as usize].load(Ordering::Relaxed)
    }

    /// How often this befell.
    pub fn faults(&self, fault: Fault) -> u64 {
        self.faults[fault as usize].load(Ordering::Relaxed)
    }

    /// What was found.
    pub fn violations(&self) -> Vec<Violation> {
        self.found.lock().expect("nobody panics here").clone()
    }

    /// Waits until something was found.
    pub async fn until_found(&self) -> Violation {
        loop {
            let noted = self.found_first.notified();
            if let Some(first) = self.found.lock().expect("nobody panics here").first() {
                return first.clone();
            }
            noted.await;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "operations")?;
        for operation in Operation::ALL {
            writeln!(f, "  {:<44} {:>10}", format!("{operation:?}"), self.operations(operation))?;
        }
        writeln!(f, "answers of Validate")?;
        for (answer, count) in self.answers.lock().expect("nobody panics here").iter() {
            writeln!(f, "  {answer:<44} {count:>10}")?;
        }
        writeln!(f, "faults")?;
        for fault in Fault::ALL {
            writeln!(f, "  {:<44} {:>10}", fault.told(), self.faults(fault))?;
        }
        Ok(())
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {}: {}", self.rule, self.when, self.story)
    }
}
