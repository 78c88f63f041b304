//! Freshness: answering from memory, and still never accepting a key after its revocation was answered `enforced`.
//!
//! # The promise
//!
//! Let a change of a key (a Delete, a Rotate, an Update) be answered with `enforced`, and let a Validate begin after that
//! answer, on any replica. Then its answer rests on the state after the change. The argument has these steps; the code
//! names them where it carries them out, and [`Bug`](crate::seeded::Bug) has one bug for each that could be forgotten.
//!
//! # The argument
//!
//! 1. **The feed is dense and in the order of the commits.** Each change ends by locking the one row of `feed_head` and
//!    taking its next number, and holds that lock to its commit ([`Tx::number`](crate::store::Tx::number)). So a snapshot
//!    of the database whose head is *n* shows the changes 1 to *n* with their rows in the log, and no other.
//! 2. **Only the writer counts.** Every answer from the database, to a poll as well as to a read, tells whether the node
//!    takes changes; one that does not is a failed read. A statement that begins on the writer after a commit was
//!    acknowledged sees it.
//! 3. **A lease runs from before the poll began.** The poller notes the uptime ([`Uptime`](crate::clock::Uptime), which
//!    counts suspension) before it sends the statement, and `lease::Lease::extend` grants memory from
//!    then on for the `lease_ms` of that very snapshot, *L*. So a commit that the snapshot does not show became visible
//!    at a moment *c* after that note, and the lease ends before *c + L*.
//! 4. **The lease is read before the entry.** A call reads the lease, then the clock, and only if the lease has not run
//!    out then, memory. Whatever a poll drops, it drops before it extends (step 5): so who reads an extended lease finds
//!    memory without what was dropped for it. The other way round, an entry read before a drop would pass with the lease
//!    granted after it. An item of a stream is a call like any other: one lease for a batch of items would let the last
//!    ones in under a lease that has run out. Who was let in by a row before may be let in by it again without asking memory
//!    for it, if the generation of memory is what it was before it was found (`recall::still_stands`): each drop raises that,
//!    after the row is gone and before the lease is extended.
//! 5. **Drop, advance, extend.** `follow::Follower::apply` drops the row of every key that the new
//!    rows of the log name, then moves the position, then extends the lease. A row in memory that was read at or after a
//!    change takes it into account and may stay for it.
//! 6. **Fills carry a generation.** A read takes the `memory::Generation` before it begins; each drop takes
//!    a later one and leaves it, under the same lock, on its part of memory; what was read is kept only if its part was
//!    not dropped from since. So an entry is from a read that began after the last drop in its part: it shows what that
//!    drop was for. And a row never takes the place of a younger one.
//! 7. **No extension with a backlog.** A poll that did not bring all rows up to the head drops and advances, but the
//!    lease is extended only by one that reached it.
//! 8. **What cannot be followed is forgotten.** If the history has another name, the position is not in the log as it was
//!    applied, or the rows after it are not dense and known, the lease is ended, everything is dropped with every
//!    generation, and the feed is followed anew from its head by the next poll. What was seen revoked is kept apart
//!    (`revoked`) and stays refused.
//! 9. **Absence is confirmed.** "No such credential" may be remembered, but a key has to be valid everywhere as soon as
//!    Create has answered, and Create waits for nobody. Nor can one argue that nobody asks for a key before it exists:
//!    an administrator's key string can be made offline, and a database can be restored. So every change that makes a
//!    credential forgets what was known to be absent before it, and an absence is answered from memory only when a poll
//!    that *began after the call arrived* has been applied (`Freshness::confirmed_absent`); all such calls share that poll.
//!    With the embedded database the one process forgets before Create answers, and there is nothing to confirm.
//! 10. **Nobody joins a read that began before they asked** (`fill`). So an answer from a read, whatever the lease, sees
//!     every commit that was acknowledged before the call began (step 2).
//! 11. **Enforcement waits.** A change reads the wait *W* under the lock of its number, commits, and answers `enforced`
//!     when *W* has passed since it knew of the commit, on a clock as in step 3. *W* is at least *L* and a twentieth of
//!     it, for clocks that do not run alike. `feed_head` holds both: *W* rises with *L* in one commit, so a replica with a
//!     longer lease has seen every change that waited less (it is of an earlier number, step 1); and *W* sinks only when
//!     the longer *L* has run out everywhere ([`Store::feed_set_lease`](crate::store::Store::feed_set_lease)). The replica
//!     that made the change forgets the key before it answers; the embedded database knows no other.
//!
//! Take a call that begins after the answer, that is after *c + W*. If it answers from a read, step 10. If it finds the
//! lease good, the lease ends after *c + W > c + L*, so by step 3 the poll behind it shows the change; by steps 5 and 4
//! the row that the call finds afterwards either takes the change into account, or was kept after the drop, and then by
//! step 6 takes it into account, too. ∎
//!
//! What the argument leans on and cannot see: a node that believes to be the writer and is not, clocks that differ by
//! more than a twentieth, a commit that a fail-over loses, a pause of the whole machine that its clocks do not count.
//!
//! # States
//!
//! [`State::Fresh`]: from memory. [`State::Reread`]: the lease ran out, and every answer is a read, within bounds of
//! number and time. [`State::Blind`]: the database does not answer; only what can be refused without it is.

mod absent;
mod bounded;
pub mod enforce;
mod fill;
mod follow;
mod invalidated;
mod lease;
mod memory;
mod poller;
mod recall;
mod report;
mod revoked;
mod ring;
mod scatter;
mod spread;
mod sync;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, watch};

pub(super) use self::{
    invalidated::{Invalidated, Moment},
    memory::{Found, Generation, Stored},
    recall::Leased,
    scatter::Scatter,
    spread::Spread,
};
pub use self::{
    poller::{Poller, keep_fresh},
    report::State,
};

use self::{
    absent::Absent, fill::Flights, follow::Followed, invalidated::KnownChanges, lease::Lease, memory::Memory,
    recall::Recalled, revoked::Revoked, ring::Ring,
};
use super::App;
use crate::{
    clock::Clock,
    domain::{
        CredentialId, Error,
        error::{Cause, Unavailable},
        key_ring::{KeyRing, RootStates},
        key_string::Digest,
        pass::Pass,
    },
    store::{Engine, Revision},
};

/// Locks that memory is divided among.
const PARTS: usize = 64;

/// How freshness is kept.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Whether other replicas may answer from the same database. If not, a change is enforced as soon as this process has
    /// invalidated what it touched.
    pub other_replicas: bool,
    /// Keys remembered at most.
    pub keys: usize,
    /// Credentials that do not exist, remembered at most.
    pub absent: usize,
    /// Keys and secrets that were seen revoked, remembered at most.
    pub revoked: usize,
    /// How often the feed is polled, more or less.
    pub poll_interval: Duration,
    /// How long a poll may take.
    pub poll_timeout: Duration,
    /// How long a call waits for a read while memory may not be believed.
    pub reread_patience: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            other_replicas: true,
            keys: 200_000,
            absent: 10_000,
            revoked: 200_000,
            poll_interval: Duration::from_millis(200),
            poll_timeout: Duration::from_millis(300),
            reread_patience: Duration::from_millis(250),
        }
    }
}

/// What was counted since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    from_memory: Spread<AtomicU64>,
    fills: AtomicU64,
    rereads: AtomicU64,
    shed: AtomicU64,
    anomalies: AtomicU64,
    polls_failed: AtomicU64,
    revoked_again: AtomicU64,
}

/// What one process remembers, and whether it may be believed.
pub struct Freshness {
    on: Followed<Pass>,
    ring: Ring<KeyRing>,
    flights: Flights,
    settings: Settings,
    is_alone: bool,
    /// Since when changes are known to be committed.
    known: KnownChanges,
    /// Polls that were begun.
    polls: AtomicU64,
    /// The last poll that brought all there was.
    confirmed: watch::Sender<u64>,
    poked: Notify,
    answers: AtomicBool,
    was_fresh: AtomicBool,
    is_lease_valid: AtomicBool,
    is_other_session: AtomicBool,
    /// The schema that a binary must know to run on this database, once this one does not.
    outdated: watch::Sender<Option<i64>>,
    told: watch::Sender<State>,
    counters: Counters,
}

impl Freshness {
    pub(super) fn new(settings: Settings, engine: Engine, ring: KeyRing) -> Self {
        let on = Followed {
            lease: Lease::default(),
            memory: Memory::new(settings.keys, PARTS),
            absent: Absent::new(settings.absent),
            revoked: Revoked::new(settings.revoked),
            lag: AtomicU64::new(0),
        };
        Self {
            on,
            ring: Ring::new(ring),
            flights: Flights::default(),
            settings,
            is_alone: engine == Engine::Sqlite,
            known: KnownChanges::default(),
            polls: AtomicU64::new(0),
            confirmed: watch::Sender::new(0),
            poked: Notify::new(),
            answers: AtomicBool::new(false),
            was_fresh: AtomicBool::new(false),
            is_lease_valid: AtomicBool::new(true),
            is_other_session: AtomicBool::new(false),
            outdated: watch::Sender::new(None),
            // Nothing is told at a start that goes well.
            told: watch::Sender::new(State::Fresh),
            counters: Counters::default(),
        }
    }

    /// Waits until the database is used in a way that this binary is too old for, and returns the schema that a binary must
    /// know.
    pub async fn outdated(&self) -> i64 {
        let mut outdated = self.outdated.subscribe();
        match outdated.wait_for(Option::is_some).await.map(|schema| *schema) {
            Ok(Some(schema)) => schema,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Has the feed polled soon.
    pub fn poke(&self) {
        self.poked.notify_one();
    }

    fn database_answered(&self, yes: bool) {
        self.answers.store(yes, Ordering::Relaxed);
    }

    /// What the lease says now, and then what `ask` reads from the key ring.
    pub(super) async fn ask_ring<T>(&self, clock: &dyn Clock, ask: impl FnOnce(&KeyRing) -> T) -> (Leased, T) {
        ring::ask_ring(&self.ring, &self.on, || clock.uptime(), ask).await
    }

    /// The same at once, for what can only reject.
    pub(super) fn ask_ring_at_once<T>(&self, clock: &dyn Clock, ask: impl FnOnce(&KeyRing) -> T) -> (Leased, T) {
        ring::ask_ring_at_once(&self.ring, &self.on, || clock.uptime(), ask)
    }

    /// The key ring, for what needs no lease.
    pub(super) fn ring(&self) -> Arc<KeyRing> {
        self.ring.now()
    }

    /// The key ring by `states`, which the database returned just now with something else.
    pub(super) fn ring_as_of(&self, states: &RootStates) -> Arc<KeyRing> {
        let ring = self.ring();
        if ring.states() == states {
            return ring;
        }
        // The poller replaces the one for all.
        self.poke();
        Arc::new(ring.with_states(states.clone()))
    }

    /// What memory says about a credential under the lease that was read before.
    pub(super) async fn recall(
        &self,
        clock: &dyn Clock,
        leased: Leased,
        shown: CredentialId,
        digest: &Digest,
    ) -> Recalled<Pass> {
        recall::recall(&self.on, leased, || clock.uptime(), shown, digest).await
    }

    /// Whether what memory said when its generation was `since` may be believed still.
    pub(super) async fn still_stands(&self, clock: &dyn Clock, leased: Leased, since: Generation) -> bool {
        recall::still_stands(&self.on, leased, || clock.uptime(), since).await
    }

    /// The memory of keys.
    pub(super) fn memory(&self) -> &Memory<Pass> {
        &self.on.memory
    }

    /// What was seen revoked.
    pub(super) fn revoked(&self) -> &Revoked {
        &self.on.revoked
    }

    /// The memory of what does not exist.
    pub(super) fn absent(&self) -> &Absent {
        &self.on.absent
    }

    /// How long a call may wait for a read; `fresh` is whether memory may be believed.
    pub(super) fn patience(&self, fresh: bool) -> Duration {
        // A read that is due only because memory is cold is bounded by the database's own time-outs.
        if fresh { super::LONGEST_READ } else { self.settings.reread_patience }
    }

    pub(super) fn count_from_memory(&self) {
        self.counters.from_memory.mine().fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_revoked_again(&self) {
        self.counters.revoked_again.fetch_add(1, Ordering::Relaxed);
    }

    /// Polls that were begun by now: a poll with a higher number begins after this.
    pub(super) fn polls_begun(&self) -> u64 {
        self.polls.load(Ordering::SeqCst)
    }

    /// Waits for a poll that began after `begun` others had and was applied, as long as a call may wait for a read.
    pub(super) async fn polled_since(&self, begun: u64) -> bool {
        let mut confirmed = self.confirmed.subscribe();
        self.poke();
        let confirmed = confirmed.wait_for(|number| *number > begun);
        tokio::time::timeout(self.settings.reread_patience, confirmed).await.is_ok_and(|confirmed| confirmed.is_ok())
    }

    /// As of which change the credential does not exist, if that may be answered now (step 9). `begun` are the polls that
    /// had begun when the call arrived.
    pub(super) async fn confirmed_absent(&self, credential: CredentialId, begun: u64) -> Option<Revision> {
        self.on.absent.find(credential)?;
        if !self.is_alone && !self.polled_since(begun).await {
            return None;
        }
        let grant = self.on.lease.grant();
        let as_of = self.on.absent.find(credential)?;
        let position = grant.position()?;
        Some(position.or_after(as_of))
    }
}

fn not_the_writer() -> Error {
    let cause: Cause = "the node that answered is not the one that takes changes".into();
    Error::Unavailable(Unavailable::Database(cause))
}

impl App {
    /// What this process remembers, and whether it may be believed.
    pub fn freshness(&self) -> &Freshness {
        &self.freshness
    }

    /// Where answers come from now.
    pub fn freshness_state(&self) -> State {
        self.freshness.state(self.clock.uptime())
    }

    /// For how long memory may be believed from now on; zero if it may not.
    pub fn lease_left(&self) -> Duration {
        self.freshness.lease_left(self.clock.uptime())
    }
}
