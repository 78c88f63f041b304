//! How a change is made: in a task that outlives its caller, in a transaction that is tried again when others are in the
//! way, with the caller's rights judged once more under the lock of the feed.

use std::{future::Future, sync::Arc, time::Duration};

use super::{
    App,
    authenticate::admit,
    freshness::{
        Invalidated, Moment,
        enforce::{Enforcement, Patience, Proof},
    },
    share_of,
};
use crate::{
    admission::{CallPermit, ChangePlace, Changer, Full, Share, Urgency},
    domain::{
        ApiKey, Caller, Error, Reach, Result, Time, audit_event::AuditEvent, error::Unavailable, key_string::KeyString,
        pass::Pass,
    },
    seeded::{self, Bug},
    store::{Committed, Head, Numbered, Revision, Tx},
    trace,
};

/// How often a transaction is begun before the caller is told to try later.
const ATTEMPTS: u32 = 6;
/// The longest wait before the second attempt; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// How long a change waits for its turn at a writer before it is refused.
const LONGEST_TURN: Duration = Duration::from_secs(10);
/// When to try again if too many changes wait.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// What a mutation answers.
pub struct Answer {
    /// The key as it is stored now.
    pub api_key: ApiKey,
    /// The key string, if one was made.
    pub key: Option<Arc<KeyString>>,
    /// The state of the database after the change.
    pub revision: Revision,
    /// Whether it is the answer to an earlier request with the same `request_id`.
    pub replayed: bool,
    /// Whether, and from when on, no replica decides on the state before.
    pub enforcement: Enforcement,
}

/// A change that was made, or that had been made before, with what shows that it is invalidated here.
struct Made {
    api_key: ApiKey,
    key: Option<Arc<KeyString>>,
    revision: Revision,
    replayed: bool,
    proof: Proof,
    wait: Duration,
}

/// A change that was committed and is invalidated here.
pub(super) struct Invalidation {
    revision: Revision,
    wait: Duration,
    invalidated: Invalidated,
}

/// A change of one key.
pub(super) trait Mutation: Send + Sync + 'static {
    /// Whether the answer waits until the change is enforced. A key that is new takes nothing from anybody.
    const IS_ENFORCED: bool = true;

    /// How urgent its turn at a writer of the database is.
    fn urgency(&self) -> Urgency {
        Urgency::Change
    }

    /// The key as it is, if a read shows that nothing has to be changed: then no writer is needed.
    ///
    /// # Errors
    /// What the attempt would end with.
    fn needless(&self, _app: &App, _caller: &Caller) -> impl Future<Output = Result<Option<ApiKey>>> + Send {
        std::future::ready(Ok(None))
    }

    /// Requires the rights that this change needs, of a caller as it is known now.
    fn require(&self, caller: &Caller, before: Option<&ApiKey>, after: &ApiKey) -> Result<()>;

    /// Works in `tx` and says what came of it. May be called again, in another transaction, if the first was in the way
    /// of others.
    fn attempt(&self, app: &App, caller: &Caller, tx: &Tx, now: Time) -> impl Future<Output = Result<Step>> + Send;
}

/// What came of an attempt.
pub(super) enum Step {
    /// Nothing has to be written.
    Settled(Box<Settled>),
    /// The change is in the transaction and wants to be committed.
    Change(Box<Proposal>),
}

/// The answer without a change.
pub(super) struct Settled {
    pub(super) api_key: ApiKey,
    /// With the key string that an earlier request made.
    pub(super) replayed: Option<Arc<KeyString>>,
}

/// A change that is ready to be committed.
pub(super) struct Proposal {
    pub(super) before: Option<ApiKey>,
    pub(super) after: ApiKey,
    pub(super) key: Option<Arc<KeyString>>,
    pub(super) event: AuditEvent,
}

impl Step {
    pub(super) fn unchanged(api_key: ApiKey) -> Self {
        Self::Settled(Box::new(Settled { api_key, replayed: None }))
    }
}

impl App {
    /// Makes a change for `caller`. It runs to its end although the caller hangs up. Once the service drains no further
    /// one begins, or the drain might not wait for it. What is waited for after it, as `patience` says, is for the caller
    /// alone, and ends with it.
    pub(super) async fn change<M: Mutation>(
        self: &Arc<Self>,
        caller: &Caller,
        patience: Patience,
        mutation: M,
    ) -> Result<Answer> {
        if self.mutations.is_closed() {
            return Err(Error::Unavailable(Unavailable::Draining));
        }
        let share = share_of(caller);
        let made = self.changed(&share, caller, patience.permit.clone(), mutation).await?;
        let Made { api_key, key, revision, replayed, proof, wait } = made;
        patience.permit.release();
        let patience = if M::IS_ENFORCED { patience } else { Patience { no_wait: true, ..patience } };
        let enforcement = self.enforced(&share, proof, wait, &patience).await;
        Ok(Answer { api_key, key, revision, replayed, enforcement })
    }

    /// The answer to a change that changes nothing, if a read shows that it does not.
    async fn unchanged<M: Mutation>(&self, caller: &Caller, mutation: &M) -> Result<Option<Made>> {
        let Some(api_key) = mutation.needless(self, caller).await? else { return Ok(None) };
        // Read after the key: this state shows the key as it is, or a later one.
        let Head { revision, wait, .. } = self.store.feed_state().await?;
        let proof = Proof::Unproved(self.unproved(&api_key, revision.clone()));
        Ok(Some(Made { api_key, key: None, revision, replayed: false, proof, wait }))
    }

    /// Makes a change in a task of its own. The task keeps `permit` and its place among the changes until its end: a client
    /// that resets its calls has no more changes and reads in progress than one that waits for their answers.
    async fn changed<M: Mutation>(
        self: &Arc<Self>,
        share: &Share,
        caller: &Caller,
        permit: CallPermit,
        mutation: M,
    ) -> Result<Made> {
        let changer = Changer { share: share.clone(), caller: *caller.key_id().as_bytes() };
        let place = self.changes.enter(mutation.urgency(), changer).map_err(overloaded)?;
        let (app, caller) = (Arc::clone(self), caller.clone());
        let task = self.mutations.spawn(trace::following(async move {
            let _permit = permit;
            if let Some(made) = app.unchanged(&caller, &mutation).await? {
                return Ok(made);
            }
            let mut pause = FIRST_PAUSE;
            for _ in 1..ATTEMPTS {
                match app.attempt(&place, &caller, &mutation).await {
                    Err(Error::Unavailable(Unavailable::Contended(cause))) => {
                        tracing::debug!(%cause, "another transaction was in the way");
                        pause_up_to(pause).await?;
                        pause *= 2;
                    }
                    outcome => return outcome,
                }
            }
            app.attempt(&place, &caller, &mutation).await
        }));
        task.await.map_err(Error::fault)?
    }

    async fn attempt<M: Mutation>(&self, place: &ChangePlace, caller: &Caller, mutation: &M) -> Result<Made> {
        let turn = match tokio::time::timeout(LONGEST_TURN, place.turn()).await {
            Ok(turn) => turn.map_err(overloaded)?,
            Err(_late) => return Err(Error::Overloaded { retry_after: RETRY_AFTER }),
        };
        // Held until the attempt ends, with the commit at the latest; the wait for enforcement comes after it.
        let tx = if turn.is_reserved() { self.store.begin_reserved().await? } else { self.store.begin().await? };
        // Asked for once the transaction has its turn, which may have taken seconds.
        let now = self.now();
        match mutation.attempt(self, caller, &tx, now).await? {
            Step::Settled(settled) => {
                // A replay hands a secret out: not on rights that were lost while it waited.
                let caller = self.judge_caller(&tx, caller, None).await?;
                mutation.require(&caller, None, &settled.api_key)?;
                let Head { revision, wait, .. } = tx.feed_state().await?;
                tx.rollback().await?;
                let Settled { api_key, replayed: key } = *settled;
                // The change that had been made may be as young as a change can be, and not known here (step 12).
                let proof = Proof::Unproved(self.unproved(&api_key, revision.clone()));
                Ok(Made { api_key, replayed: key.is_some(), key, revision, proof, wait })
            }
            Step::Change(proposal) => {
                let numbered = tx.number().await?;
                seeded::numbered();
                seeded::race("change: numbered, not committed").await;
                self.judge_again(&numbered, caller, mutation, &proposal, now).await?;
                let Proposal { after: api_key, key, event, .. } = *proposal;
                let Invalidation { revision, wait, invalidated } = self.commit(numbered, event).await?;
                Ok(Made { api_key, key, revision, replayed: false, proof: Proof::Committed(invalidated), wait })
            }
        }
    }

    /// Judges the caller and the last administrator on the latest state, which nobody else can change until the commit.
    async fn judge_again<M: Mutation>(
        &self,
        numbered: &Numbered,
        caller: &Caller,
        mutation: &M,
        proposal: &Proposal,
        now: Time,
    ) -> Result<()> {
        // A caller that changes its own key is judged by what the key was.
        let own = proposal.before.clone().filter(|key| key.id == caller.key_id());
        let caller = self.judge_caller(numbered.tx(), caller, own).await?;
        mutation.require(&caller, proposal.before.as_ref(), &proposal.after)?;
        let administrators = super::administrators::Judge { peer: caller.peer(), now };
        administrators.require_one_left(numbered.tx(), proposal.before.as_ref(), &proposal.after).await
    }
}

impl App {
    /// Commits a change, and invalidates here what it touched before anything can be said of it, however long the commit
    /// takes (step 12 of the argument in `freshness`). A commit that failed drops nothing: if it happened all the same,
    /// the poller learns of it.
    pub(super) async fn commit(&self, numbered: Numbered, event: AuditEvent) -> Result<Invalidation> {
        let (key, change, stored) = (event.key_id, (event.action, event.version), event.time);
        let (freshness, clock) = (Arc::clone(&self.freshness), Arc::clone(&self.clock));
        let invalidate = move |Committed { revision, wait }: Committed| {
            let now = || {
                if seeded::bug(Bug::WaitFromStoredTime) {
                    return Moment::of_stored(&*clock, stored);
                }
                Moment::now(&*clock)
            };
            let invalidated = freshness.invalidate(key, change, &revision, now);
            Invalidation { revision, wait, invalidated }
        };
        numbered.commit(event, i64::from_be_bytes(Self::random_bytes()?), invalidate).await
    }

    /// Judges a caller once more, by its key as it is committed now, or by `own` if that is given.
    async fn judge_caller(&self, tx: &Tx, caller: &Caller, own: Option<ApiKey>) -> Result<Caller> {
        let key = match own {
            Some(key) => Some(key),
            None => tx.api_key_peek_even_deleted(&Reach::everything(), caller.key_id()).await?,
        };
        admit(
            &Arc::new(Pass::of(&key.ok_or(Error::CredentialsInvalid)?)),
            caller.credential_id(),
            caller.peer(),
            self.now(),
        )
    }
}

impl App {
    /// Whether the attempt of this number failed because a root secret ceased to be the active one after a secret was made
    /// under it, and another secret may be made; then the next poll has brought the states as they are now.
    pub(super) async fn may_make_again<T>(&self, outcome: &Result<T>, attempt: u32) -> bool {
        let is_superseded = matches!(outcome, Err(Error::Unavailable(Unavailable::RootSecretNotActive(_))));
        let may = is_superseded && attempt < ATTEMPTS;
        if may {
            self.freshness.polled_since(self.freshness.polls_begun()).await;
        }
        may
    }
}

fn overloaded(_full: Full) -> Error {
    Error::Overloaded { retry_after: RETRY_AFTER }
}

/// Waits for a random part of `most`, so that those who were in each other's way are not so again.
#[expect(clippy::disallowed_methods, reason = "there is no condition to wait for: the other transaction is not ours")]
async fn pause_up_to(most: Duration) -> Result<()> {
    let part = u32::from(u8::from_be_bytes(App::random_bytes()?));
    tokio::time::sleep(most * part / u32::from(u8::MAX)).await;
    Ok(())
}
