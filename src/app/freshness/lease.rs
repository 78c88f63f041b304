//! The lease: until when, and up to which change, memory may be believed.

use std::time::Duration;

use super::{
    spread::Spread,
    sync::{PoisonError, RwLock},
};
use crate::{
    clock::Uptime,
    seeded::{self, Bug},
    store::Revision,
};

/// What was granted last. Whoever reads it gets one consistent whole.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grant {
    until: Uptime,
    position: Option<Revision>,
}

impl Grant {
    /// Whether memory may be believed at `now`.
    pub(crate) fn is_fresh(&self, now: Uptime) -> bool {
        seeded::bug(Bug::LeaseNotRead) || self.position.is_some() && now < self.until
    }

    /// Every change up to this one is out of memory. None: no history is followed.
    pub(crate) fn position(&self) -> Option<&Revision> {
        self.position.as_ref()
    }

    /// The same, to keep.
    pub(crate) fn into_position(self) -> Option<Revision> {
        self.position
    }

    /// Until when memory may be believed.
    pub(crate) fn until(&self) -> Uptime {
        self.until
    }
}

/// Written by the poller alone, read by every call. What one thread finds granted, another may find a moment later: what
/// was to be dropped for it is dropped before all of them (step 5 of the argument).
#[derive(Debug, Default)]
pub(crate) struct Lease(Spread<RwLock<Grant>>);

impl Lease {
    /// What is granted now.
    pub(crate) fn grant(&self) -> Grant {
        self.0.mine().read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Follows the feed to `position`, without being the wiser about what comes after it.
    pub(crate) fn advance(&self, position: &Revision) {
        self.write(|grant| grant.position = Some(position.apart()));
    }

    /// Extends the lease: the poll that `began` then brought everything up to `position`, and there
    /// was nothing after it.
    pub(crate) fn extend(&self, position: &Revision, began: Uptime, length: Duration) {
        self.write(|grant| {
            *grant = Grant { until: began.after(length), position: Some(position.apart()) };
        });
    }

    /// Ends the lease until the next poll extends it. The history is followed further.
    pub(crate) fn expire(&self) {
        self.write(|grant| grant.until = Uptime::default());
    }

    /// Ends the lease: nothing may be believed until a history is followed again.
    pub(crate) fn end(&self) {
        self.write(|grant| *grant = Grant::default());
    }

    fn write(&self, change: impl Fn(&mut Grant)) {
        for grant in self.0.iter() {
            change(&mut grant.write().unwrap_or_else(PoisonError::into_inner));
        }
    }
}
