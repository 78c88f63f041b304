//! Reading what memory does not know: one read for all who wait for the same, and nobody joins one that began before
//! (step 10 of the argument).

use std::{
    collections::{HashMap, hash_map::Entry},
    error::Error as StdError,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::sync::{Semaphore, oneshot};

use super::{
    memory::Generation,
    recall::{Fence, LaggingNode},
};
use crate::{
    app::App,
    domain::{
        ApiKey, CredentialId, Error, Result,
        error::{Poisoned, Unavailable},
        key_ring::RootStates,
    },
    seeded::{self, Bug},
    store::{Credential, Revision},
    trace,
};

/// Reads at once, at most.
const READS_AT_ONCE: usize = 64;

/// What a read found.
pub(in crate::app) struct Fetched {
    /// The credential and its key, if there is such a credential.
    pub(in crate::app) found: Option<(Credential, Arc<ApiKey>)>,
    /// The state of the database that was read.
    pub(in crate::app) revision: Revision,
    /// What it says of the root secrets.
    pub(in crate::app) root_states: RootStates,
    /// From before the read; none if what was read is not of the history that is followed.
    pub(in crate::app) generation: Option<Generation>,
}

/// Why a read failed. Shared by all who waited for it, so it can be cloned.
#[derive(Clone, Debug)]
enum Failed {
    Poisoned(Poisoned),
    Unavailable(String),
    Fault(String),
}

type Answer = oneshot::Sender<Result<Arc<Fetched>, Failed>>;

/// The reads that are under way.
pub(super) struct Flights {
    flying: Mutex<HashMap<CredentialId, Waiting>>,
    places: Semaphore,
}

/// Who waits for news of a credential.
#[derive(Default)]
struct Waiting {
    /// For the read that is under way.
    now: Vec<Answer>,
    /// For the one after it: they came when it had begun.
    next: Vec<Answer>,
}

impl Default for Flights {
    fn default() -> Self {
        Self { flying: Mutex::default(), places: Semaphore::new(READS_AT_ONCE) }
    }
}

impl Flights {
    fn lock(&self) -> MutexGuard<'_, HashMap<CredentialId, Waiting>> {
        self.flying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts `answer` in line. True if nobody reads for this credential, so whoever asked has to begin.
    fn wait(&self, credential: CredentialId, answer: Answer) -> bool {
        match self.lock().entry(credential) {
            Entry::Vacant(place) => {
                place.insert(Waiting { now: Vec::new(), next: vec![answer] });
                true
            }
            Entry::Occupied(mut flight) => {
                let flight = flight.get_mut();
                let line = if seeded::bug(Bug::LateJoin) { &mut flight.now } else { &mut flight.next };
                line.push(answer);
                false
            }
        }
    }

    /// Takes off with all who wait by now. False if nobody does any more; then the flight is over.
    fn take_off(&self, credential: CredentialId) -> bool {
        let mut flying = self.lock();
        let Some(flight) = flying.get_mut(&credential) else { return false };
        let next = std::mem::take(&mut flight.next);
        flight.now.extend(next);
        flight.now.retain(|answer| !answer.is_closed());
        let wanted = !flight.now.is_empty();
        if !wanted {
            flying.remove(&credential);
        }
        wanted
    }

    fn land(&self, credential: CredentialId) -> Vec<Answer> {
        self.lock().get_mut(&credential).map(|flight| std::mem::take(&mut flight.now)).unwrap_or_default()
    }
}

/// Ends a flight whatever happens, or nobody could ever take off for this credential again.
struct Ended<'a>(&'a Flights, CredentialId);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

impl App {
    /// What the database says about a credential now: by a read that begins after this was called, shared with all who
    /// called before it began.
    ///
    /// # Errors
    /// `Unavailable`, also if it takes longer than `patience`; `Poisoned`.
    pub(in crate::app) async fn fetch(
        self: &Arc<Self>,
        credential: CredentialId,
        patience: Duration,
    ) -> Result<Arc<Fetched>> {
        let (answer, answered) = oneshot::channel();
        if self.freshness.flights.wait(credential, answer) {
            let app = Arc::clone(self);
            // The read outlives whoever asked first: others wait for it, too.
            tokio::spawn(trace::following(async move { app.fly(credential).await }));
        }
        let away = |cause: String| Error::Unavailable(Unavailable::Database(cause.into()));
        match tokio::time::timeout(patience, answered).await {
            Ok(Ok(Ok(fetched))) => Ok(fetched),
            Ok(Ok(Err(Failed::Poisoned(poisoned)))) => Err(poisoned.into()),
            Ok(Ok(Err(Failed::Unavailable(cause)))) => Err(away(cause)),
            Ok(Ok(Err(Failed::Fault(cause)))) => Err(Error::fault(cause)),
            Ok(Err(_)) => Err(Error::fault("a read ended without an answer")),
            Err(_) => {
                self.freshness.counters.shed.fetch_add(1, Ordering::Relaxed);
                Err(away(format!("no answer within {} ms", patience.as_millis())))
            }
        }
    }

    async fn fly(&self, credential: CredentialId) {
        let flights = &self.freshness.flights;
        let ended = Ended(flights, credential);
        loop {
            let Ok(_place) = flights.places.acquire().await else { return };
            if !flights.take_off(credential) {
                // Gone already, and perhaps begun anew by somebody else.
                std::mem::forget(ended);
                return;
            }
            let outcome = self.read(credential).await;
            for answer in flights.land(credential) {
                // Whoever hung up wants no answer.
                drop(answer.send(outcome.clone()));
            }
        }
    }

    async fn read(&self, credential: CredentialId) -> Result<Arc<Fetched>, Failed> {
        let freshness = &self.freshness;
        let counters = &freshness.counters;
        let is_fresh = freshness.on.lease.grant().is_fresh(self.clock.uptime());
        let count = if is_fresh { &counters.fills } else { &counters.rereads };
        count.fetch_add(1, Ordering::Relaxed);
        // Before the read begins, or it might miss what is dropped meanwhile.
        let fence = Fence::before_reading(&freshness.on);
        seeded::race("fill: generation taken, not read").await;
        let read = self.store.validation_read_even_deleted(credential).await;
        freshness.database_answered(!matches!(read, Err(Error::Unavailable(_))));
        let read = read.map_err(|error| match error {
            Error::Poisoned(poisoned) => Failed::Poisoned(poisoned),
            Error::Unavailable(unavailable) => Failed::Unavailable(told(&Error::Unavailable(unavailable))),
            other => Failed::Fault(told(&other)),
        })?;
        let generation = fence.admits(&read.revision).map_err(|LaggingNode| {
            freshness.poke();
            Failed::Unavailable(format!(
                "the read saw no change after {}, but others were applied",
                read.revision.seq()
            ))
        })?;
        seeded::race("fill: read, not kept").await;
        Ok(Arc::new(Fetched {
            found: read.found.map(|(credential, key)| (credential, Arc::new(key))),
            revision: read.revision,
            root_states: read.root_states,
            generation,
        }))
    }
}

/// An error with its causes, for the log.
fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
