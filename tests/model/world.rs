//! What the modelled code lives in: a database, time, and one replica that follows.

use std::time::Duration;

use claviger::{
    domain::{
        CredentialId, KeyId,
        audit_event::Action,
        key_ring::RootStates,
        key_string::Digest,
        root_secret::{RootId, RootState},
    },
    store::{Head, LoggedChange, Polled, Revision},
};
use shuttle::{
    rand::Rng,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    clock::Uptime,
    freshness::{
        absent::Absent,
        follow::{Followed, Follower, Outcome},
        lease::Lease,
        memory::{Found, Generation, Memory},
        recall::{Fence, Leased, recall, still_stands},
        revoked::Revoked,
        ring::{Ring, ask_ring},
    },
    seeded::{self, Bug, POLLED_ROWS},
};

/// The key that everybody asks for.
pub const KEY: KeyId = KeyId::from_bytes([1; 16]);
pub const CREDENTIAL: CredentialId = CredentialId::from_bytes([2; 16]);
pub const DIGEST: Digest = Digest::from_words([3, 4, 5]);

/// The root secret that the key string was made under.
fn root() -> RootId {
    RootId::new('0').unwrap()
}

/// In ticks of the model's clock, a millisecond each.
pub const LEASE: u64 = 3;
pub const WAIT: u64 = 4;
/// Time ends here.
pub const END: u64 = 12;

/// Whether the key is good, in the row that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    Good,
    Revoked,
}

struct Database {
    epoch: &'static str,
    log: Vec<LoggedChange>,
    row: Option<Row>,
    root: RootState,
    lease: u64,
    is_lease_valid: bool,
    /// Rows of the log that a standby has, while there is one.
    standby: Option<usize>,
}

/// The poller's connection.
#[derive(Clone, Copy)]
struct Connection {
    leads_to_standby: bool,
    was_writer: bool,
}

/// The replica, its database, and the time.
pub struct World {
    pub on: Followed<Row>,
    ring: Ring<RootStates>,
    connection: Mutex<Connection>,
    database: Mutex<Database>,
    time: AtomicU64,
    /// Set when the revocation was answered as enforced, or the creation was answered.
    pub answered: AtomicU64,
    /// When the statement began that a standby works on; 0 if it works on none.
    asks_standby_since: AtomicU64,
    polls: AtomicU64,
    confirmed: AtomicU64,
}

impl World {
    /// One change, the key's creation, has been made and is followed, unless it is yet to be born.
    pub fn new(row: Option<Row>) -> Arc<Self> {
        let log = row.map(|_| change(1, KEY, Action::Create)).into_iter().collect();
        Arc::new(Self {
            on: Followed {
                lease: Lease::default(),
                memory: Memory::new(4, 1),
                absent: Absent::new(4),
                revoked: Revoked,
                lag: AtomicU64::new(0),
            },
            ring: Ring::new([(root(), RootState::Active)].into()),
            connection: Mutex::new(Connection { leads_to_standby: false, was_writer: true }),
            database: Mutex::new(Database {
                epoch: "one",
                log,
                row,
                root: RootState::Active,
                lease: LEASE,
                is_lease_valid: true,
                standby: None,
            }),
            time: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            asks_standby_since: AtomicU64::new(0),
            polls: AtomicU64::new(0),
            confirmed: AtomicU64::new(0),
        })
    }

    pub fn uptime(&self) -> Uptime {
        Uptime::new(Duration::from_millis(self.time.load(Ordering::SeqCst)))
    }

    /// Lets time pass, whoever is late.
    pub fn pass_time(&self) {
        for _ in 0..END {
            self.time.fetch_add(1, Ordering::SeqCst);
            shuttle::thread::yield_now();
        }
    }

    /// Commits changes of `others` keys and then the revocation, waits, and answers.
    pub fn revoke_after(&self, others: u8) {
        for number in 0..others {
            self.database.lock().unwrap().commit(KeyId::from_bytes([100 + number; 16]), Action::Update);
        }
        {
            let mut database = self.database.lock().unwrap();
            database.row = Some(Row::Revoked);
            database.commit(KEY, Action::Delete);
        }
        self.answer_enforced();
    }

    /// Changes the row by hand, names a new history, waits, and answers.
    pub fn revoke_by_hand(&self) {
        {
            let mut database = self.database.lock().unwrap();
            database.row = Some(Row::Revoked);
            database.epoch = "two";
        }
        self.answer_enforced();
    }

    /// Removes the root secret that the key string was made under, waits, and answers.
    pub fn remove_root(&self) {
        self.database.lock().unwrap().root = RootState::Removed;
        self.answer_enforced();
    }

    /// The poller's connection leads to a standby that lags; the key is revoked, and the standby is promoted.
    pub fn fail_over(&self) {
        let due = {
            let mut database = self.database.lock().unwrap();
            database.standby = Some(database.log.len());
            *self.connection.lock().unwrap() = Connection { leads_to_standby: true, was_writer: false };
            database.row = Some(Row::Revoked);
            database.commit(KEY, Action::Delete);
            self.time.load(Ordering::SeqCst) + WAIT
        };
        // In the middle of a statement whose lease, were it granted, would last longer than the wait.
        while self.time.load(Ordering::SeqCst) < due && self.asks_standby_since.load(Ordering::SeqCst) < due - WAIT / 2
        {
            shuttle::thread::yield_now();
        }
        self.database.lock().unwrap().standby = None;
        self.answer_at(due);
    }

    /// A lease that is longer than the wait, by hand; then a revocation.
    pub fn revoke_after_breaking_the_lease(&self) {
        {
            let mut database = self.database.lock().unwrap();
            (database.lease, database.is_lease_valid) = (END, false);
        }
        dawdle();
        self.revoke_after(0);
    }

    /// Makes the key, and answers at once.
    pub fn create(&self) {
        {
            let mut database = self.database.lock().unwrap();
            database.row = Some(Row::Good);
            database.commit(KEY, Action::Create);
        }
        self.answered.store(1, Ordering::SeqCst);
    }

    fn answer_enforced(&self) {
        self.answer_at(self.time.load(Ordering::SeqCst) + WAIT);
    }

    fn answer_at(&self, due: u64) {
        while self.time.load(Ordering::SeqCst) < due {
            if self.time.load(Ordering::SeqCst) >= END {
                return;
            }
            shuttle::thread::yield_now();
        }
        self.answered.store(1, Ordering::SeqCst);
    }

    /// Polls, as `app::freshness::poller` does.
    pub fn poll(&self, follower: &mut Follower) -> Outcome {
        let number = self.polls.fetch_add(1, Ordering::SeqCst) + 1;
        let mut began = self.uptime();
        let connection = *self.connection.lock().unwrap();
        // A statement takes its snapshot, works on it, and reads the role when it comes to that.
        let mut polled = self.database.lock().unwrap().polled(follower.applied(), connection);
        if connection.leads_to_standby {
            self.asks_standby_since.store(self.time.load(Ordering::SeqCst), Ordering::SeqCst);
        }
        dawdle();
        self.asks_standby_since.store(0, Ordering::SeqCst);
        polled.is_writer = !connection.leads_to_standby || self.database.lock().unwrap().standby.is_none();
        if seeded::bug(Bug::LeaseFromPollEnd) {
            began = self.uptime();
        }
        if polled.is_writer && polled.was_writer && polled.root_states != *self.ring.now() {
            self.ring.replace(polled.root_states.clone(), &self.on);
        }
        let outcome = follower.apply(&polled, began, &self.on);
        if outcome == Outcome::NotTheWriter {
            let is_promoted = self.database.lock().unwrap().standby.is_none();
            *self.connection.lock().unwrap() = Connection { leads_to_standby: !is_promoted, was_writer: is_promoted };
        }
        if outcome == Outcome::UpToDate {
            self.confirmed.store(number, Ordering::SeqCst);
        }
        outcome
    }

    /// What memory answers, if it does.
    pub fn ask_memory(&self) -> Option<Row> {
        let leased = self.accepts_root()?;
        let asked = recall(&self.on, leased, || self.uptime(), CREDENTIAL, &DIGEST);
        shuttle::future::block_on(asked).found.map(|found| *found.row)
    }

    fn accepts_root(&self) -> Option<Leased> {
        let is_accepted = |states: &RootStates| states.state(root()) != Some(RootState::Removed);
        let asked = ask_ring(&self.ring, &self.on, || self.uptime(), is_accepted);
        let (leased, is_accepted) = shuttle::future::block_on(asked);
        is_accepted.then_some(leased)
    }

    /// The same for somebody who asked before, as `App::lets_in_again` does: what was found then, if it still stands.
    pub fn ask_again(&self, found: &mut Option<(Row, Generation)>) -> Option<Row> {
        let stands = |since| {
            self.accepts_root().is_some_and(|leased| {
                shuttle::future::block_on(still_stands(&self.on, leased, || self.uptime(), since))
            })
        };
        if !found.is_some_and(|(_, since)| stands(since)) {
            let since = self.on.memory.generation();
            *found = self.ask_memory().map(|row| (row, since));
        }
        found.map(|(row, _)| row)
    }

    /// Whether memory answers that there is no such credential, as `Freshness::confirmed_absent` does.
    pub fn ask_absence(&self, begun: u64) -> bool {
        self.on.absent.find(CREDENTIAL).is_some()
            && self.confirmed.load(Ordering::SeqCst) > begun
            && self.on.absent.find(CREDENTIAL).is_some()
    }

    /// The same, after a poll or two may have been applied.
    pub fn ask_absence_a_little_later(&self, begun: u64) -> bool {
        for _ in 0..4 {
            shuttle::thread::yield_now();
        }
        self.ask_absence(begun)
    }

    pub fn time_is_left(&self) -> bool {
        self.time.load(Ordering::SeqCst) < END
    }

    pub fn polls_begun(&self) -> u64 {
        self.polls.load(Ordering::SeqCst)
    }

    /// Reads, and remembers what was read, as `App::prove_by_reading` does.
    pub fn read(&self) -> Option<Row> {
        let fence = Fence::before_reading(&self.on);
        let (revision, row) = self.database.lock().unwrap().read();
        dawdle();
        let generation = fence.admits(&revision).expect("the one node that there is does not lag");
        if let Some(generation) = generation {
            match row {
                Some(row) => {
                    let (row, as_of) = (Arc::new(row), revision.seq());
                    let found = Found { credential: CREDENTIAL, digest: DIGEST, stored: 7, key: KEY, row, as_of };
                    self.on.memory.keep(generation, found);
                }
                None => self.on.absent.keep(generation, CREDENTIAL, revision.seq()),
            }
        }
        row
    }
}

impl Database {
    fn commit(&mut self, key: KeyId, action: Action) {
        let seq = self.log.len() as i64 + 1;
        self.log.push(change(seq, key, action));
    }

    fn revision(&self) -> Revision {
        Revision::new(self.epoch, self.log.len() as i64)
    }

    fn read(&self) -> (Revision, Option<Row>) {
        (self.revision(), self.row)
    }

    fn polled(&self, applied: Option<i64>, connection: Connection) -> Polled {
        let seen = self.standby.filter(|_| connection.leads_to_standby).unwrap_or(self.log.len());
        let head = seen as i64;
        let from = applied.unwrap_or(i64::MAX).min(head);
        let most = usize::try_from(POLLED_ROWS).unwrap();
        let changes = self.log[..seen].iter().filter(|change| change.seq >= from).take(most).copied().collect();
        Polled {
            is_writer: true,
            was_writer: connection.was_writer,
            is_other_session: false,
            head: Head {
                revision: Revision::new(self.epoch, head),
                lease: Duration::from_millis(self.lease),
                wait: Duration::from_millis(WAIT),
                lease_changes: 0,
                accepts: 0,
                is_lease_valid: self.is_lease_valid,
            },
            root_states: [(root(), self.root)].into(),
            newer_schema_required: None,
            changes,
        }
    }
}

/// Lets others go first, for as long as it happens to take: networks and schedulers are late as they like.
pub fn dawdle() {
    if shuttle::rand::thread_rng().gen_range(0..3) == 0 {
        for _ in 0..shuttle::rand::thread_rng().gen_range(0..3 * WAIT) {
            shuttle::thread::yield_now();
        }
    }
}

fn change(seq: i64, key: KeyId, action: Action) -> LoggedChange {
    LoggedChange { seq, key_id: Some(key), kind: i64::from(action as i16), nonce: seq * 7, version: 1 }
}
