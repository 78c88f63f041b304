//! What we promise: one room for each verb of the API.
//!
//! A verb takes values of the domain and a [`Caller`] who was judged by [`App::authenticate`],
//! asks the store what is remembered and the domain what is true. It knows nothing of gRPC and nothing of SQL.

mod administrators;
pub mod alarms;
mod authenticate;
mod bootstrap;
pub mod clock_check;
pub mod counts;
mod create;
mod delete;
pub mod freshness;
mod hashing;
mod manage;
mod mutation;
mod page_token;
mod proof;
mod read;
mod refusals;
mod request_ids;
mod rotate;
mod start;
mod update;
mod upkeep;
mod usage;
mod validate;

use std::{sync::Arc, time::Duration};

use rand::{TryRng, rngs::SysRng};
use tokio_util::task::TaskTracker;

pub use crate::store::{LastUse, ListFilter, Revision};
pub use authenticate::{EvaluationTime, Guest, Rights};
pub use bootstrap::offline_key;
pub use create::NewKey;
pub use delete::Revocation;
pub use freshness::enforce::{Enforcement, Patience};
pub use manage::{Expiry, Target};
pub use mutation::Answer;
pub use read::{ListQuery, Page};
pub use request_ids::SHOWN_AGAIN_FOR;
pub use rotate::{LEAST_OWN_OVERLAP, MAX_OVERLAP, Rotation};
pub use start::StartError;
pub use update::Patch;
pub use validate::{Known, Question, Verdict};

use self::{
    alarms::Alarms,
    clock_check::ClockCheck,
    counts::{Census, Counts},
    freshness::Freshness,
    hashing::HashingPool,
    proof::Proofs,
    refusals::Refusals,
    usage::Usage,
};
use crate::{
    admission::{Budget, ChangeQueue, GivesWay, Share, WAITS},
    clock::Clock,
    domain::{
        ApiKey, Caller, Error, Result, Scope, Time,
        key_ring::KeyRing,
        key_string::KeyFormat,
        root_secret::{RootId, RootSecret},
        scope,
        secret_hash::{Hasher, Profile},
    },
    store::Store,
};

/// How long a call may wait for a read of the database at the very most; its own time-outs are shorter.
const LONGEST_READ: Duration = Duration::from_secs(30);

/// How a deployment wants things done.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which key strings are made and accepted.
    pub key_format: KeyFormat,
    /// How new secrets are hashed.
    pub profile: Profile,
    /// How long a deleted key is kept.
    pub purge_after: Duration,
    /// How far this process's clock may be from others before nothing is purged.
    pub max_clock_difference: Duration,
    /// Threads that run argon2.
    pub hashing_threads: usize,
    /// Hashes that may wait for a thread; more are refused.
    pub hashing_queue: usize,
    /// How freshness is kept.
    pub freshness: freshness::Settings,
}

/// The service, without its transport.
pub struct App {
    store: Store,
    clock: Arc<dyn Clock>,
    clock_check: ClockCheck,
    settings: Settings,
    hashing: HashingPool,
    proofs: Proofs,
    usage: Usage,
    freshness: Arc<Freshness>,
    refusals: Refusals,
    alarms: Alarms,
    counts: Counts,
    census: Census,
    mutations: TaskTracker,
    longer_wait: upkeep::LongerWait,
    /// The queue in front of the writers.
    changes: ChangeQueue,
    /// Calls that wait for the enforcement of a change.
    waits: Budget,
}

/// The share of a caller: its merchant, or the key alone if it reaches all merchants.
pub fn share_of(caller: &Caller) -> Share {
    if caller.reaches_all() {
        Share::Key(*caller.key_id().as_bytes())
    } else {
        Share::Merchant(caller.merchant().as_str().into())
    }
}

/// The share of the caller that a key string of `key` makes.
fn share_of_key(key: &ApiKey) -> Share {
    let reaches_all = key
        .terms
        .as_ref()
        .is_ok_and(|terms| scope::holds(terms.scopes.iter().map(Scope::as_str), scope::ALL_MERCHANTS));
    if reaches_all { Share::Key(*key.id.as_bytes()) } else { Share::Merchant(key.merchant.as_str().into()) }
}

impl App {
    /// Puts the service together on an opened and migrated store: checks the root secrets in `mounted` against those
    /// the database knows, and activates the only one on a database that knows none.
    ///
    /// # Errors
    /// What an operator has to put right.
    pub async fn start(
        store: Store,
        clock: Arc<dyn Clock>,
        settings: Settings,
        mounted: Vec<RootSecret>,
    ) -> Result<Arc<Self>, StartError> {
        let ring = start::key_ring(&store, clock.now(), mounted).await?;
        let hashing = HashingPool::start(settings.hashing_threads, settings.hashing_queue).map_err(Error::fault)?;
        let changes = ChangeQueue::new(store.writers(), store.has_reserved_writer());
        let proofs = Proofs::new(&mut SysRng).map_err(Error::fault)?;
        let freshness = Arc::new(Freshness::new(settings.freshness, store.engine(), ring));
        Ok(Arc::new(Self {
            freshness,
            usage: Usage::default(),
            store,
            clock_check: ClockCheck::start(&*clock),
            clock,
            hashing,
            proofs,
            refusals: Refusals::default(),
            alarms: Alarms::default(),
            counts: Counts::default(),
            census: Census::default(),
            mutations: TaskTracker::new(),
            longer_wait: upkeep::LongerWait::default(),
            changes,
            waits: Budget::new(WAITS, GivesWay::Oldest),
            settings,
        }))
    }

    /// Now, by the clock that was passed in.
    pub fn now(&self) -> Time {
        self.clock.now()
    }

    /// Which key strings are made and accepted.
    pub fn key_format(&self) -> &KeyFormat {
        &self.settings.key_format
    }

    /// The database.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Where argon2 runs are counted.
    pub fn hasher(&self) -> &Hasher {
        self.hashing.hasher()
    }

    /// Hashes that wait for a thread now.
    pub fn hashes_waiting(&self) -> usize {
        self.hashing.waiting()
    }

    /// Hashes refused because too many waited.
    pub fn hashes_shed(&self) -> u64 {
        self.hashing.shed()
    }

    /// What was done so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// How many keys there are of each state.
    pub fn census(&self) -> &Census {
        &self.census
    }

    /// Changes that are not revocations, from their beginning to their commit.
    pub fn changes_in_progress(&self) -> usize {
        self.changes.changes()
    }

    /// Revocations, from their beginning to their commit.
    pub fn revocations_in_progress(&self) -> usize {
        self.changes.revocations()
    }

    /// Changes that wait for a writer of the database.
    pub fn changes_waiting(&self) -> usize {
        self.changes.waiting()
    }

    /// What was raised so far.
    pub fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    /// Waits until every mutation that has begun is done, also those whose callers hung up. To be called when no
    /// further call comes in.
    pub async fn drain(&self) {
        self.mutations.close();
        self.mutations.wait().await;
    }

    /// The root secrets that are in use and not mounted here, in the order of their names.
    pub fn roots_missing(&self) -> Vec<RootId> {
        self.ring().missing()
    }

    /// The key ring, for what needs no lease.
    fn ring(&self) -> Arc<KeyRing> {
        self.freshness.ring()
    }

    fn random_bytes<const N: usize>() -> Result<[u8; N]> {
        let mut bytes = [0; N];
        SysRng.try_fill_bytes(&mut bytes).map_err(Error::fault)?;
        Ok(bytes)
    }
}
