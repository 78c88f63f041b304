//! The key ring under the lease (step 4 of the argument): the states of the root secrets are part of what a lease covers.

use super::{
    follow::Followed,
    recall::{Leased, read_lease},
    spread::Spread,
    sync::{Arc, PoisonError, RwLock},
};
use crate::{
    clock::Uptime,
    seeded::{self, Bug},
};

/// The ring, of the kind `K`, as of the last poll.
pub(crate) struct Ring<K>(Spread<RwLock<Arc<K>>>);

impl<K> Ring<K> {
    /// Begins with `ring`.
    pub(crate) fn new(ring: K) -> Self {
        let ring = Arc::new(ring);
        Self(Spread::new(|| RwLock::new(Arc::clone(&ring))))
    }

    /// The ring now, for what needs no lease: what is made under it is checked under the lock of the feed.
    pub(crate) fn now(&self) -> Arc<K> {
        Arc::clone(&self.0.mine().read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Under the lock and not through a counted reference, which all cores would write to.
    fn ask<T>(&self, ask: impl FnOnce(&K) -> T) -> T {
        ask(&self.0.mine().read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts `ring` in place of the one before. The lease ends first: a call that reads the lease after this point
    /// finds none until a poll extends it, and then also finds this ring.
    pub(crate) fn replace<R>(&self, ring: K, on: &Followed<R>) {
        on.lease.expire();
        let ring = Arc::new(ring);
        for part in self.0.iter() {
            *part.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&ring);
        }
    }
}

/// Reads the lease, then the clock, then what `ask` reads from the ring. The other way round, a call that was stopped in
/// between would accept a root secret that was removed before the lease began.
pub(crate) async fn ask_ring<K, R, T>(
    ring: &Ring<K>,
    on: &Followed<R>,
    uptime: impl FnOnce() -> Uptime,
    ask: impl FnOnce(&K) -> T,
) -> (Leased, T) {
    if seeded::bug(Bug::RingNotUnderLease) {
        let too_early = ask(&ring.now());
        seeded::race("validate: ring read, lease not").await;
        return (read_lease(on, uptime), too_early);
    }
    let leased = read_lease(on, uptime);
    seeded::race("validate: lease read, ring not").await;
    (leased, ring.ask(ask))
}

/// The same at once, for what can only reject.
pub(crate) fn ask_ring_at_once<K, R, T>(
    ring: &Ring<K>,
    on: &Followed<R>,
    uptime: impl FnOnce() -> Uptime,
    ask: impl FnOnce(&K) -> T,
) -> (Leased, T) {
    let leased = read_lease(on, uptime);
    (leased, ring.ask(ask))
}
