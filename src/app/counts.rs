//! What operators ask for first, counted where it happens and read by whoever shows it. Counting costs one relaxed
//! addition; nothing here knows of metrics.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use super::freshness::Spread;
use crate::domain::{
    State,
    decision::{Decision, Finding, Refusal},
};

/// The codes of decisions, in the order in which the reasons are looked for.
pub const CODES: [&str; 11] = [
    "MALFORMED",
    "NOT_FOUND",
    "DELETED",
    "SECRET_RETIRED",
    "DISABLED",
    "NOT_YET_VALID",
    "EXPIRED",
    "CALLER_IP_REQUIRED",
    "IP_NOT_ALLOWED",
    "SCOPE_NOT_GRANTED",
    "VALID",
];

/// The code of a decision, as the API names it.
pub fn code(decision: &Decision) -> &'static str {
    CODES[index(decision)]
}

fn index(decision: &Decision) -> usize {
    match decision {
        Decision::Refused(Refusal::Malformed) => 0,
        Decision::Refused(Refusal::NotFound) => 1,
        Decision::Refused(Refusal::Proved(_, finding)) => match finding {
            Finding::Deleted => 2,
            Finding::SecretRetired => 3,
            Finding::Disabled => 4,
            Finding::NotYetValid => 5,
            Finding::Expired => 6,
            Finding::CallerIpRequired => 7,
            Finding::IpNotAllowed => 8,
            Finding::ScopeNotGranted(_) => 9,
        },
        Decision::Valid(_) => 10,
    }
}

/// What this process has done since its start.
#[derive(Debug, Default)]
pub struct Counts {
    decisions: Spread<[AtomicU64; CODES.len()]>,
    proofs: AtomicU64,
    proofs_missed: AtomicU64,
}

impl Counts {
    /// How often Validate answered each code.
    pub fn decisions(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let sum = |index: usize| self.decisions.iter().map(|counts| load(&counts[index])).sum();
        CODES.into_iter().enumerate().map(move |(index, code)| (code, sum(index)))
    }

    /// Proofs of a secret that were remembered, callers' own included.
    pub fn proofs_remembered(&self) -> u64 {
        load(&self.proofs).saturating_sub(self.proofs_missed())
    }

    /// Proofs of a secret that were not remembered and had to be made.
    pub fn proofs_missed(&self) -> u64 {
        load(&self.proofs_missed)
    }

    pub(super) fn decided(&self, decision: &Decision) {
        add(&self.decisions.mine()[index(decision)]);
    }

    pub(super) fn proof_asked(&self) {
        add(&self.proofs);
    }

    pub(super) fn proof_missed(&self) {
        add(&self.proofs_missed);
    }
}

/// How many keys there were of each state when they were last counted.
#[derive(Debug, Default)]
pub struct Census(Mutex<Option<[u64; State::ALL.len()]>>);

impl Census {
    /// The states and their counts; empty before the first time, since nothing is known then.
    pub fn counts(&self) -> impl Iterator<Item = (State, u64)> {
        let counts = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.into_iter().flat_map(|counts| State::ALL.into_iter().zip(counts))
    }

    pub(super) fn note(&self, counts: [u64; State::ALL.len()]) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(counts);
    }
}

fn load(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}
