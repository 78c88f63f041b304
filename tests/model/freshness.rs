//! The core of `app::freshness`, from its own files, on what shuttle can schedule.

mod sync {
    pub(super) use std::sync::PoisonError;

    use shuttle::rand::Rng;
    pub(super) use shuttle::sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicU64, Ordering},
    };

    pub(super) const PARTS: usize = 2;

    /// Whichever: nothing may rest on who has which.
    pub(super) fn part() -> usize {
        shuttle::rand::thread_rng().gen_range(0..PARTS)
    }
}

#[path = "../../src/app/freshness/absent.rs"]
pub mod absent;
#[path = "../../src/app/freshness/bounded.rs"]
pub mod bounded;
#[path = "../../src/app/freshness/follow.rs"]
pub mod follow;
#[path = "../../src/app/freshness/lease.rs"]
pub mod lease;
#[path = "../../src/app/freshness/memory.rs"]
pub mod memory;
#[path = "../../src/app/freshness/recall.rs"]
pub mod recall;
#[path = "../../src/app/freshness/ring.rs"]
pub mod ring;
#[path = "../../src/app/freshness/scatter.rs"]
pub mod scatter;
#[path = "../../src/app/freshness/spread.rs"]
pub mod spread;

/// What was seen revoked mends what other steps let through, so the model goes without.
pub mod revoked {
    use claviger::{domain::KeyId, store::Revision};

    pub(crate) struct Revoked;

    impl Revoked {
        pub(crate) fn saw_deletion(&self, _at: &Revision, _key: KeyId, _version: i64) {}

        pub(crate) fn accept(&self) {}
    }
}
