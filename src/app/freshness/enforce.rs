//! Waiting until no replica can answer on the state before a change (step 11 of the argument).

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    app::App,
    clock::Uptime,
    domain::Time,
    seeded::{self, Bug},
    store::Engine,
};

/// The wait that goes with a lease: a twentieth longer, for clocks that do not run alike.
pub fn wait_for(lease: Duration) -> Duration {
    lease + lease / 20
}

/// How long whoever changes a key is ready to wait for its enforcement.
#[derive(Clone, Copy, Debug, Default)]
pub struct Patience {
    /// Not at all.
    pub no_wait: bool,
    /// The answer has to be there by then.
    pub deadline: Option<Instant>,
}

/// When no replica decides on the state before a change any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enforcement {
    /// Whether that is so already.
    pub enforced: bool,
    /// Since when, or from when on.
    pub time: Time,
}

/// When a wait is over.
#[derive(Clone, Copy, Debug)]
pub(in crate::app) struct Due {
    uptime: Uptime,
    time: Time,
}

impl App {
    /// When what was committed before now is enforced, if the wait that every replica agrees on is `wait`.
    pub(in crate::app) fn due_after(&self, wait: Duration) -> Due {
        // One process is all there is: it has forgotten what it knew before this is asked.
        let wait = if self.store.engine() == Engine::Sqlite { Duration::ZERO } else { wait };
        Due { uptime: self.clock.uptime().after(wait), time: self.clock.now().saturating_add(wait) }
    }

    /// Waits until `due`, as far as `patience` goes.
    pub(in crate::app) async fn enforced(&self, due: Due, patience: Patience) -> Enforcement {
        let Due { uptime: due, time } = due;
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
