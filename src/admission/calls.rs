//! What calls hold: permits, the bytes of their requests, streams. One value of [`CallBudgets`] serves the whole process.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use super::{Budget, GivesWay, Grant, Share};

/// Bytes of requests that are not answered yet, in all.
const BODY_BYTES: u64 = 16 * 1024 * 1024;
/// What a call costs beside the bytes of its request, in bytes of the same budget.
pub const CALL_BYTES: u64 = 4 * 1024;
/// Calls that wait for the enforcement of their change, in all.
pub const WAITS: u64 = 4_096;
/// Streams of validations, in all.
const STREAMS: u64 = 4_096;
/// Calls of health and reflection, in all.
const OPEN_CALLS: u64 = 2_048;
/// Bodies of refused calls that are read and discarded at the same time.
const DISCARDS: u64 = 1_024;
/// Credentials whose share is known, at most.
const LEARNED: usize = 65_536;

/// The permit of a call, for whoever works on it: a call that only waits for the enforcement of a change holds none.
#[derive(Clone, Default)]
pub struct CallPermit(Arc<Mutex<Option<Grant>>>);

impl CallPermit {
    /// The permit `grant`.
    pub fn new(grant: Grant) -> Self {
        Self(Arc::new(Mutex::new(Some(grant))))
    }

    /// Returns the permit before the call is answered.
    pub fn release(&self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// The budgets of calls. Cheap to clone; clones are the same budgets.
#[derive(Clone)]
pub struct CallBudgets {
    /// Calls that are worked on. Never taken back.
    pub permits: Budget,
    /// Bytes of requests, from their headers until their call is answered. The newest of the largest share gives way.
    pub bodies: Budget,
    /// Streams of validations. The newest of the largest share gives way.
    pub streams: Budget,
    /// Calls of health and reflection, which need no key: they count for the peer. The newest of the largest gives way.
    pub open_calls: Budget,
    /// Bodies of refused calls that are being discarded, by peer.
    pub discards: Budget,
    learned: Arc<RwLock<HashMap<[u8; 16], Share>>>,
}

impl CallBudgets {
    /// With `permits` permits.
    pub fn new(permits: usize) -> Self {
        Self {
            permits: Budget::new(u64::try_from(permits).unwrap_or(u64::MAX), GivesWay::Newest),
            bodies: Budget::new(BODY_BYTES, GivesWay::Newest),
            streams: Budget::new(STREAMS, GivesWay::Newest),
            open_calls: Budget::new(OPEN_CALLS, GivesWay::Newest),
            discards: Budget::new(DISCARDS, GivesWay::Newest),
            learned: Arc::default(),
        }
    }

    /// The share of the credential with this id, whose tag was verified: the one that this process once learned for it. A
    /// credential's merchant never changes, so no lease is needed.
    pub fn share_of(&self, credential: &[u8; 16]) -> Share {
        let learned = self.learned.read().unwrap_or_else(PoisonError::into_inner);
        learned.get(credential).cloned().unwrap_or(Share::Unlearned)
    }

    /// Learns the share of a caller that was authenticated with the credential of this id.
    pub fn learn(&self, credential: [u8; 16], share: &Share) {
        {
            let learned = self.learned.read().unwrap_or_else(PoisonError::into_inner);
            if learned.get(&credential) == Some(share) {
                return;
            }
        }
        let mut learned = self.learned.write().unwrap_or_else(PoisonError::into_inner);
        if learned.len() >= LEARNED && !learned.contains_key(&credential) {
            // Any will do: one that is still in use is learned again by its next call.
            if let Some(any) = learned.keys().next().copied() {
                learned.remove(&any);
            }
        }
        learned.insert(credential, share.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_belongs_to_the_unlearned_until_it_was_authenticated() {
        let budgets = CallBudgets::new(8);
        let share = Share::Merchant("acme".into());
        assert_eq!(budgets.share_of(&[1; 16]), Share::Unlearned);
        budgets.learn([1; 16], &share);
        assert_eq!(budgets.share_of(&[1; 16]), share);
        assert_eq!(budgets.share_of(&[2; 16]), Share::Unlearned);
    }

    #[test]
    fn what_is_learned_is_bounded() {
        let budgets = CallBudgets::new(8);
        for number in 0..u128::try_from(LEARNED + 10).unwrap() {
            budgets.learn(number.to_be_bytes(), &Share::Unlearned);
        }
        assert_eq!(budgets.learned.read().unwrap().len(), LEARNED);
    }
}
