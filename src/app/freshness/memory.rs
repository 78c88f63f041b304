//! What is remembered of keys that exist: their rows, and which secrets were proved.
//!
//! A row is found in two steps. A *proof* says that certain bytes are the secret of a credential, and where the row of
//! their key is; it is true as long as the history is, whatever becomes of the key. A *row* says what the key is, and goes
//! with every change of it. Both are dropped under a lock that also marks when that was, so that a read which began
//! before cannot bring back what was dropped after.
//!
//! Proofs lead to a row through its [`Slot`], which is emptied with the row: so it need not be looked up a second time,
//! which was a seventh of the whole decision, most of it waiting for memory.

use std::hash::{BuildHasher, Hash};

use super::{
    bounded::Bounded,
    scatter::Scatter,
    spread::Padded,
    sync::{Arc, AtomicU64, Mutex, Ordering, PoisonError},
};
use crate::{
    domain::{CredentialId, KeyId, key_string::Digest},
    seeded::{self, Bug},
};

/// A keyed digest of a credential as it is stored.
pub(crate) type Stored = u64;

/// What a read has to have been younger than. Taken before the read begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Generation(u64);

/// What a read found, on its way into memory.
pub(crate) struct Found<R> {
    /// Which credential was shown.
    pub(crate) credential: CredentialId,
    /// The bytes that were proved to be its secret.
    pub(crate) digest: Digest,
    /// The credential as it is stored, which they were proved by.
    pub(crate) stored: Stored,
    /// Its key.
    pub(crate) key: KeyId,
    /// The key's row.
    pub(crate) row: Arc<R>,
    /// The number of the last change that the read saw.
    pub(crate) as_of: i64,
}

/// A row from memory.
pub(crate) struct Remembered<R> {
    /// The row.
    pub(crate) row: Arc<R>,
    /// The number of the last change that it takes into account.
    pub(crate) as_of: i64,
}

/// A part on cache lines of its own.
type Shard<K, V> = Padded<Mutex<Part<K, V>>>;

/// One part of a map, under a lock of its own.
struct Part<K, V> {
    /// When something in this part was dropped last.
    dropped: u64,
    held: Bounded<K, V>,
}

/// Where a row is, for as long as it is in memory.
type Slot<R> = Mutex<Option<Row<R>>>;

struct Row<R> {
    of_key: Arc<R>,
    as_of: i64,
    was_asked_for: bool,
}

/// What memory has of a row: the slot, which is empty as soon as this is gone, whatever the reason.
struct Held<R>(Arc<Slot<R>>);

struct Proof<R> {
    digest: Digest,
    stored: Stored,
    slot: Arc<Slot<R>>,
    as_of: i64,
}

/// The memory of one process.
pub(crate) struct Memory<R> {
    /// Counts what was dropped.
    moment: AtomicU64,
    hashing: Scatter,
    rows: Vec<Shard<KeyId, Held<R>>>,
    proofs: Vec<Shard<CredentialId, Proof<R>>>,
}

impl<R> Memory<R> {
    /// Holds at most about `most` keys, in `parts` parts.
    pub(crate) fn new(most: usize, parts: usize) -> Self {
        let each = most.div_ceil(parts.max(1));
        Self {
            moment: AtomicU64::new(0),
            hashing: Scatter::default(),
            rows: (0..parts.max(1)).map(|_| Part::of(Bounded::asked_past(each, Held::was_asked_for))).collect(),
            // A key in rotation has two secrets that are shown.
            proofs: (0..parts.max(1)).map(|_| Part::of(Bounded::new(each + each / 4))).collect(),
        }
    }

    /// To be taken before a read begins (step 6 of the argument).
    pub(crate) fn generation(&self) -> Generation {
        Generation(self.moment.load(Ordering::SeqCst))
    }

    /// The row of the key whose credential `credential` is, if `digest` is that of bytes which were proved to be its
    /// secret. To be asked after the lease was read (step 4).
    pub(crate) fn find(&self, credential: CredentialId, digest: &Digest) -> Option<Remembered<R>> {
        let mut part = lock(self.part(&self.proofs, &credential));
        let proof = part.held.find(&credential)?;
        if !seeded::bug(Bug::MemoryByIdAlone) && !proof.digest.matches(digest) {
            return None;
        }
        let mut slot = lock_slot(&proof.slot);
        let row = slot.as_mut()?;
        row.was_asked_for = true;
        // A row from before the credential was made knows nothing of it.
        (row.as_of >= proof.as_of).then(|| Remembered { row: Arc::clone(&row.of_key), as_of: row.as_of })
    }

    /// Whether `digest` is that of bytes which were proved to be the secret of `credential` as it is stored.
    pub(crate) fn is_proved(&self, credential: CredentialId, digest: &Digest, stored: Stored) -> bool {
        let mut part = lock(self.part(&self.proofs, &credential));
        part.held.find(&credential).is_some_and(|proof| proof.stored == stored && proof.digest.matches(digest))
    }

    /// Remembers what a read found that began at `generation`, unless something was dropped since that it may not have
    /// seen, or something younger is there (step 6).
    pub(crate) fn keep(&self, generation: Generation, found: Found<R>) {
        let Found { credential, digest, stored, key, row, as_of } = found;
        let unfenced = seeded::bug(Bug::FillWithoutGeneration);
        let slot = {
            let mut part = lock(self.part(&self.rows, &key));
            if !unfenced && part.dropped > generation.0 {
                return;
            }
            let row = Some(Row { of_key: row, as_of, was_asked_for: false });
            if let Some(Held(slot)) = part.held.find(&key) {
                // Other secrets of the key lead here, too.
                let slot = Arc::clone(slot);
                let mut held = lock_slot(&slot);
                if !unfenced && held.as_ref().is_some_and(|held| held.as_of > as_of) {
                    return;
                }
                *held = row;
                drop(held);
                slot
            } else {
                let slot = Arc::new(Mutex::new(row));
                part.held.insert(key, Held(Arc::clone(&slot)));
                slot
            }
        };
        let mut part = lock(self.part(&self.proofs, &credential));
        if unfenced || part.dropped <= generation.0 {
            part.held.insert(credential, Proof { digest, stored, slot, as_of });
        }
    }

    /// Forgets the row of `key`, which the change `seq` touched; one that takes it into account already may stay. Reads
    /// that have begun come too late (step 5).
    pub(crate) fn drop_key(&self, key: KeyId, seq: i64) {
        let mut part = lock(self.part(&self.rows, &key));
        if let Some(Held(slot)) = part.held.find(&key) {
            // The slot stays: the proofs that lead here are as good as they were, and the next read fills it again.
            lock_slot(slot).take_if(|held| held.as_of < seq);
        }
        // Not before the row is gone: whoever finds a row after it saw this moment may believe the row until the next one.
        part.dropped = self.next_moment();
    }

    /// Forgets everything, and all that is being read (step 8).
    pub(crate) fn drop_everything(&self) {
        for part in &self.rows {
            Self::empty(&self.moment, part);
        }
        for part in &self.proofs {
            Self::empty(&self.moment, part);
        }
    }

    /// How many keys are held; those whose row was dropped count until it was read again or they made room.
    pub(crate) fn len(&self) -> usize {
        self.rows.iter().map(|part| lock(part).held.len()).sum()
    }

    fn empty<K: Copy + Eq + Hash, V>(moment: &AtomicU64, part: &Shard<K, V>) {
        let mut part = lock(part);
        part.held.clear();
        if !seeded::bug(Bug::GenerationsKept) {
            part.dropped = moment.fetch_add(1, Ordering::SeqCst) + 1;
        }
    }

    fn next_moment(&self) -> u64 {
        self.moment.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn part<'a, K: Hash, V>(&self, parts: &'a [Shard<K, V>], key: &K) -> &'a Shard<K, V> {
        // Never empty, and never more than fit.
        let number = usize::try_from(self.hashing.hash_one(key) % parts.len() as u64).unwrap_or(0);
        &parts[number]
    }
}

impl<R> Held<R> {
    /// Whether the row was found since this was asked last.
    fn was_asked_for(&mut self) -> bool {
        lock_slot(&self.0).as_mut().is_some_and(|row| std::mem::take(&mut row.was_asked_for))
    }
}

impl<R> Drop for Held<R> {
    fn drop(&mut self) {
        lock_slot(&self.0).take();
    }
}

impl<K: Copy + Eq + Hash, V> Part<K, V> {
    fn of(held: Bounded<K, V>) -> Shard<K, V> {
        Padded(Mutex::new(Self { dropped: 0, held }))
    }
}

fn lock_slot<R>(slot: &Slot<R>) -> impl std::ops::DerefMut<Target = Option<Row<R>>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lock<T>(part: &Padded<Mutex<T>>) -> impl std::ops::DerefMut<Target = T> {
    // A panic under one of these locks leaves a part that is whole: each change of it is one step.
    part.0.lock().unwrap_or_else(PoisonError::into_inner)
}
