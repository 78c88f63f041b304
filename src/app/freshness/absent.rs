//! What is remembered of credentials that do not exist: that they do not, as of a change.
//!
//! In a memory of its own, so that nobody can crowd keys out by asking for what is not there. The log names keys and not
//! credentials, so every change that makes a credential forgets all of it (step 9 of the argument).

use super::{
    bounded::Bounded,
    memory::Generation,
    sync::{Mutex, PoisonError},
};
use crate::{
    domain::CredentialId,
    seeded::{self, Bug},
};

/// See the module.
pub(crate) struct Absent(Mutex<Known>);

struct Known {
    /// Reads that began before this may have seen another history.
    dropped: Option<Generation>,
    /// The last change that made a credential.
    made: i64,
    absent: Bounded<CredentialId, i64>,
}

impl Absent {
    /// Holds at most `most` credentials.
    pub(crate) fn new(most: usize) -> Self {
        Self(Mutex::new(Known { dropped: None, made: 0, absent: Bounded::new(most) }))
    }

    /// As of which change the credential is known not to exist.
    pub(crate) fn find(&self, credential: CredentialId) -> Option<i64> {
        self.with(|known| {
            let made = known.made;
            known.absent.find(&credential).copied().filter(|as_of| *as_of >= made)
        })
    }

    /// Remembers that a read which began at `generation` and saw the change `as_of` found no such credential.
    pub(crate) fn keep(&self, generation: Generation, credential: CredentialId, as_of: i64) {
        self.with(|known| {
            if as_of >= known.made && known.dropped.is_none_or(|dropped| dropped <= generation) {
                known.absent.insert(credential, as_of);
            }
        });
    }

    /// The change `seq` made a credential: what was known before it is not known any more.
    pub(crate) fn forget_before(&self, seq: i64) {
        if !seeded::bug(Bug::AbsenceKept) {
            self.with(|known| known.made = known.made.max(seq));
        }
    }

    /// Forgets everything, and all that began to be read before `now`; numbers begin anew.
    pub(crate) fn drop_everything(&self, now: Generation) {
        self.with(|known| {
            known.dropped = Some(now);
            known.made = 0;
            known.absent.clear();
        });
    }

    /// How many are held.
    pub(crate) fn len(&self) -> usize {
        self.with(|known| known.absent.len())
    }

    fn with<T>(&self, work: impl FnOnce(&mut Known) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
