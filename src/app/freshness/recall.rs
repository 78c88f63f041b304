//! Asking memory, and what has to be noted before reading past it: the two orders that the argument rests on.

use super::{
    follow::Followed,
    memory::{Generation, Remembered},
};
use crate::{
    clock::Uptime,
    domain::{CredentialId, key_string::Digest},
    seeded::{self, Bug},
    store::Revision,
};

/// What came of asking memory.
pub(crate) struct Recalled<R> {
    /// Every change up to this one is taken into account. None: memory may not be believed.
    pub(crate) position: Option<Revision>,
    /// What is remembered.
    pub(crate) found: Option<Remembered<R>>,
}

/// What the lease and the clock said before anything else was read: whatever is decided under a lease is read after it.
pub(crate) struct Leased(Option<Revision>);

impl Leased {
    /// Every change up to this one is taken into account. None: there is no lease.
    pub(crate) fn position(&self) -> Option<&Revision> {
        self.0.as_ref()
    }
}

/// Reads the lease, then the clock.
pub(crate) fn read_lease<R>(on: &Followed<R>, uptime: impl FnOnce() -> Uptime) -> Leased {
    let grant = on.lease.grant();
    let is_fresh = grant.is_fresh(seeded::when_judged(uptime));
    Leased(grant.into_position().filter(|_| is_fresh))
}

/// Reads the entry, after the lease (step 4 of the argument).
pub(crate) async fn recall<R>(
    on: &Followed<R>,
    leased: Leased,
    uptime: impl FnOnce() -> Uptime,
    credential: CredentialId,
    digest: &Digest,
) -> Recalled<R> {
    if seeded::bug(Bug::EntryBeforeLease) {
        let too_early = on.memory.find(credential, digest);
        seeded::race("validate: entry read, lease not").await;
        let Leased(position) = read_lease(on, uptime);
        return Recalled { found: too_early.filter(|_| position.is_some()), position };
    }
    seeded::race("validate: lease read, entry not").await;
    match leased {
        Leased(None) => Recalled { position: None, found: None },
        Leased(position) => Recalled { position, found: on.memory.find(credential, digest) },
    }
}

/// Whether a row that memory gave under the lease, after its generation was found to be `since`, may be believed once more,
/// without being looked up: reads the generation after the lease (step 4 of the argument).
///
/// What a poll drops raises the generation before it extends the lease. So under a lease that is good, and with the
/// generation of then, no change was applied that the row does not take into account: it is there still, or it made room
/// for others or for a younger one, and neither is asked for by a change.
pub(crate) async fn still_stands<R>(
    on: &Followed<R>,
    leased: Leased,
    uptime: impl FnOnce() -> Uptime,
    since: Generation,
) -> bool {
    if seeded::bug(Bug::EntryBeforeLease) {
        let too_early = on.memory.generation();
        return read_lease(on, uptime).0.is_some() && too_early == since;
    }
    seeded::race("validate: lease read, generation not").await;
    leased.0.is_some() && on.memory.generation() == since
}

/// What is noted before a read begins, to tell afterwards whether its outcome may be remembered (step 6).
pub(crate) struct Fence {
    generation: Generation,
    position: Option<Revision>,
}

/// A read saw less than was applied before it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaggingNode;

impl Fence {
    /// To be called before the read begins.
    pub(crate) fn before_reading<R>(on: &Followed<R>) -> Self {
        // The generation first: what is dropped between the two is of a history that the read does not match.
        let generation = on.memory.generation();
        Self { generation, position: on.lease.grant().position().cloned() }
    }

    /// The generation under which a read of `revision` may be remembered; none if it is not of the history that was
    /// followed when it began.
    ///
    /// The writer never goes back: what does is a node that lags, or a database that was restored.
    pub(crate) fn admits(&self, revision: &Revision) -> Result<Option<Generation>, LaggingNode> {
        match self.position.as_ref().filter(|position| position.epoch() == revision.epoch()) {
            Some(position) if revision.seq() < position.seq() => Err(LaggingNode),
            Some(_) => Ok(Some(self.generation)),
            None => Ok(None),
        }
    }
}
