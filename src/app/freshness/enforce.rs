//! Waiting until no replica can answer on the state before a change (steps 11 and 12 of the argument).

use std::{task::Poll, time::Duration};

use futures_util::poll;
use tokio::time::Instant;

use super::invalidated::{Invalidated, Unproved};
use crate::{
    admission::{CallPermit, Share},
    app::App,
    domain::Time,
    seeded::{self, Bug},
};

/// How long whoever changes a key is ready to wait for its enforcement.
#[derive(Clone, Default)]
pub struct Patience {
    /// Not at all.
    pub no_wait: bool,
    /// The answer has to be there by then.
    pub deadline: Option<Instant>,
    /// The permit of the call, which is returned at the commit.
    pub permit: CallPermit,
}

/// When no replica decides on the state before a change any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enforcement {
    /// Whether that is so already.
    pub enforced: bool,
    /// Since when, or from when on.
    pub time: Time,
}

/// What shows that this process has invalidated what a change touched.
#[derive(Debug)]
pub(in crate::app) enum Proof {
    /// This call committed the change.
    Committed(Invalidated),
    /// This call committed nothing, and has to wait for a poll.
    Unproved(Unproved),
}

/// A call that has no deadline waits this long for a poll.
const LONGEST_PROOF: Duration = Duration::from_secs(5);

impl App {
    /// Waits until what `proof` is of is enforced, as far as `patience` goes, if the wait that every replica agrees on is
    /// `wait`.
    ///
    /// Such waits are bounded: beyond the bound the oldest of the share that holds most is answered at once.
    pub(in crate::app) async fn enforced(
        &self,
        share: &Share,
        proof: Proof,
        wait: Duration,
        patience: &Patience,
    ) -> Enforcement {
        // Where one process is all there is, it has forgotten what it knew once there is a proof.
        let wait = if self.settings.freshness.other_replicas { wait } else { Duration::ZERO };
        let time = match &proof {
            Proof::Committed(invalidated) => invalidated.since().time,
            Proof::Unproved(unproved) => unproved.read.time,
        };
        let not_yet = Enforcement { enforced: false, time: time.saturating_add(wait) };
        let mut waiting = std::pin::pin!(self.wait_until_enforced(proof, wait, patience));
        // What is answered without waiting needs no place among those that wait.
        if let Poll::Ready(enforcement) = poll!(&mut waiting) {
            return enforcement;
        }
        let Ok(place) = self.waits.take_displacing(share, 1) else { return not_yet };
        tokio::select! {
            biased;
            enforcement = waiting => enforcement,
            () = place.revoked() => not_yet,
        }
    }

    async fn wait_until_enforced(&self, proof: Proof, wait: Duration, patience: &Patience) -> Enforcement {
        let invalidated = match proof {
            Proof::Committed(invalidated) => invalidated,
            Proof::Unproved(unproved) if seeded::bug(Bug::EnforcedWithoutPoll) => {
                return Enforcement { enforced: true, time: unproved.read.time };
            }
            Proof::Unproved(unproved) => {
                let not_proved = Enforcement { enforced: false, time: unproved.read.time.saturating_add(wait) };
                if patience.no_wait {
                    return not_proved;
                }
                let until = patience.deadline.unwrap_or_else(|| Instant::now() + LONGEST_PROOF);
                match self.freshness.prove(unproved, until).await {
                    Some(invalidated) => invalidated,
                    None => return not_proved,
                }
            }
        };
        let since = invalidated.since();
        let (due, time) = (since.uptime.after(wait), since.time.saturating_add(wait));
        if seeded::bug(Bug::EnforcementNotWaited) {
            return Enforcement { enforced: true, time };
        }
        loop {
            let left = due.since(self.clock.uptime());
            if left.is_zero() {
                return Enforcement { enforced: true, time };
            }
            let too_late = patience.deadline.is_some_and(|deadline| Instant::now() + left >= deadline);
            if patience.no_wait || too_late {
                return Enforcement { enforced: false, time };
            }
            pause_for(left).await;
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "it is time itself that is waited for")]
async fn pause_for(left: Duration) {
    // By the runtime's clock, which stands still while the machine sleeps: whoever calls looks at ours again.
    tokio::time::sleep(left).await;
}
