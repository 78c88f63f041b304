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

/// Reads the lease, then the clock, then the entry (step 4 of the argument).
pub(crate) async fn recall<R>(
    on: &Followed<R>,
    uptime: impl FnOnce() -> Uptime,
    credential: CredentialId,
    digest: &Digest,
) -> Recalled<R> {
    let mut too_early = None;
    if seeded::bug(Bug::EntryBeforeLease) {
        too_early = on.memory.find(credential, digest);
        seeded::race("validate: entry read, lease not").await;
    }
    let grant = on.lease.grant();
    let is_fresh = grant.is_fresh(seeded::when_judged(uptime));
    seeded::race("validate: lease read, entry not").await;
    let Some(position) = grant.into_position().filter(|_| is_fresh) else {
        return Recalled { position: None, found: None };
    };
    Recalled { position: Some(position), found: too_early.or_else(|| on.memory.find(credential, digest)) }
}

/// Whether a row that memory gave under the lease, after its generation was found to be `since`, may be believed once more,
/// without being looked up: reads the lease, then the clock, then the generation (step 4 of the argument).
///
/// What a poll drops raises the generation before it extends the lease. So under a lease that is good, and with the
/// generation of then, no change was applied that the row does not take into account: it is there still, or it made room
/// for others or for a younger one, and neither is asked for by a change.
pub(crate) async fn still_stands<R>(on: &Followed<R>, uptime: impl FnOnce() -> Uptime, since: Generation) -> bool {
    let too_early = seeded::bug(Bug::EntryBeforeLease).then(|| on.memory.generation());
    let grant = on.lease.grant();
    let is_fresh = grant.is_fresh(seeded::when_judged(uptime));
    seeded::race("validate: lease read, generation not").await;
    is_fresh && too_early.unwrap_or_else(|| on.memory.generation()) == since
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
