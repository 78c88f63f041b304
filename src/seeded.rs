//! Named weak points: where the checker plants a bug, and where it widens a race.
//!
//! The checker (`tests/`, feature `checker`) has to be shown to find what it looks for, so a build of it can have one of
//! the bugs in [`Bug`] on purpose, and yields and delays at the places that [`race`] names, with or without a bug. The
//! feature is never a default one; without it every function here is empty and costs nothing, and `main.rs` refuses to
//! be compiled for release with it.

/// A bug that can be planted. Each takes away one step of the argument in [`crate::app::freshness`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// The lease runs from the end of the poll, and not from its start.
    LeaseFromPollEnd = 1,
    /// Validate does not look at the lease.
    LeaseNotRead,
    /// Validate reads the entry first, and then the lease.
    EntryBeforeLease,
    /// A poll that did not bring all changes extends the lease.
    LeaseExtendedWithBacklog,
    /// A read goes into memory although its key was dropped meanwhile.
    FillWithoutGeneration,
    /// When everything is dropped, reads that are under way are not.
    GenerationsKept,
    /// A remembered proof is found by the credential's id, whatever the secret.
    MemoryByIdAlone,
    /// Changes are numbered outside of their transaction, and the poll takes gaps for granted.
    AutoIncrementPoll,
    /// That a credential does not exist is remembered over a Create.
    AbsenceKept,
    /// A change answers `enforced` at once.
    EnforcementNotWaited,
    /// A poll does not ask whether the node is the writer.
    RoleNotCheckedInPoll,
    /// A read does not ask whether the node is the writer.
    RoleNotCheckedInFill,
    /// A call joins a read that began before it.
    LateJoin,
    /// A stream judges the lease once for as long as it has something to do.
    LeaseOncePerBatch,
    /// A stream judges its caller when it is opened, and not again.
    CallerJudgedAtStart,
    /// The caller of a unary call is evaluated when its headers come, not when its request is complete.
    CallerEvaluatedAtHeaders,
    /// Validate reads the key ring first, and then the lease.
    RingNotUnderLease,
    /// The wait for enforcement counts from the time that the database stores for the change.
    WaitFromStoredTime,
    /// A call that commits nothing answers `enforced` without a poll.
    EnforcedWithoutPoll,
    /// The lease of a row that breaks the invariant of lease and wait is granted.
    BrokenLeaseGranted,
    /// The role of a node is not asked when a connection is made, but in each answer alone.
    RoleNotCheckedAtConnect,
}

impl Bug {
    /// All there are.
    pub const ALL: [Self; 21] = [
        Self::LeaseFromPollEnd,
        Self::LeaseNotRead,
        Self::EntryBeforeLease,
        Self::LeaseExtendedWithBacklog,
        Self::FillWithoutGeneration,
        Self::GenerationsKept,
        Self::MemoryByIdAlone,
        Self::AutoIncrementPoll,
        Self::AbsenceKept,
        Self::EnforcementNotWaited,
        Self::RoleNotCheckedInPoll,
        Self::RoleNotCheckedInFill,
        Self::LateJoin,
        Self::LeaseOncePerBatch,
        Self::CallerJudgedAtStart,
        Self::CallerEvaluatedAtHeaders,
        Self::RingNotUnderLease,
        Self::WaitFromStoredTime,
        Self::EnforcedWithoutPoll,
        Self::BrokenLeaseGranted,
        Self::RoleNotCheckedAtConnect,
    ];

    /// The name on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::LeaseFromPollEnd => "lease-from-poll-end",
            Self::LeaseNotRead => "lease-not-read",
            Self::EntryBeforeLease => "entry-before-lease",
            Self::LeaseExtendedWithBacklog => "lease-extended-with-backlog",
            Self::FillWithoutGeneration => "fill-without-generation",
            Self::GenerationsKept => "generations-kept",
            Self::MemoryByIdAlone => "memory-by-id-alone",
            Self::AutoIncrementPoll => "auto-increment-poll",
            Self::AbsenceKept => "absence-kept",
            Self::EnforcementNotWaited => "enforcement-not-waited",
            Self::RoleNotCheckedInPoll => "role-not-checked-in-poll",
            Self::RoleNotCheckedInFill => "role-not-checked-in-fill",
            Self::LateJoin => "late-join",
            Self::LeaseOncePerBatch => "lease-once-per-batch",
            Self::CallerJudgedAtStart => "caller-judged-at-start",
            Self::CallerEvaluatedAtHeaders => "caller-evaluated-at-headers",
            Self::RingNotUnderLease => "ring-not-under-lease",
            Self::WaitFromStoredTime => "wait-from-stored-time",
            Self::EnforcedWithoutPoll => "enforced-without-poll",
            Self::BrokenLeaseGranted => "broken-lease-granted",
            Self::RoleNotCheckedAtConnect => "role-not-checked-at-connect",
        }
    }

    /// The bug of this name, if there is one.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| bug.name() == name)
    }
}

#[cfg(not(feature = "checker"))]
mod absent {
    use rand::rngs::SysRng;

    use super::Bug;
    use crate::clock::Uptime;

    /// Whether this bug is planted: never.
    #[inline]
    pub const fn bug(_bug: Bug) -> bool {
        false
    }

    /// Widens the race of this name: not at all.
    #[inline]
    pub async fn race(_name: &'static str) {}

    /// What a stream does until it has nothing to do.
    #[derive(Clone, Debug, Default)]
    pub struct Batch(());

    /// The work on one item of a batch: nothing but that.
    #[inline]
    pub fn in_batch<F>(_batch: Batch, work: F) -> F {
        work
    }

    /// When the lease is judged: now.
    #[inline]
    pub fn when_judged(now: impl FnOnce() -> Uptime) -> Uptime {
        now()
    }

    /// What key strings are made from: the operating system's generator.
    #[inline]
    pub const fn minting_random() -> SysRng {
        SysRng
    }

    /// A change holds its number and has not committed: nothing happens.
    #[inline]
    pub const fn numbered() {}

    /// The most rows of the feed that one poll reads.
    pub const POLLED_ROWS: u64 = 1_000;
}

#[cfg(not(feature = "checker"))]
pub use absent::{Batch, POLLED_ROWS, bug, in_batch, minting_random, numbered, race, when_judged};

#[cfg(feature = "checker")]
mod planted;

#[cfg(feature = "checker")]
mod batch;

#[cfg(feature = "checker")]
pub use batch::{Batch, in_batch, when_judged};
#[cfg(feature = "checker")]
pub use planted::{
    POLLED_ROWS, PredictableRandom, bug, delay_races, from_environment, minting_random, numbered, plant, predict_keys,
    race,
};
