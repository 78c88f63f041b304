//! What is remembered of keys that exist: their rows, and which secrets were proved.
//!
//! A row is found in two steps. A *proof* says that certain bytes are the secret of a credential, and which key that
//! belongs to; it is true as long as the history is, whatever becomes of the key. A *row* says what the key is, and goes
//! with every change of it. Both are dropped under a lock that also marks when that was, so that a read which began
//! before cannot bring back what was dropped after.

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

struct Row<R> {
    row: Arc<R>,
    as_of: i64,
}

struct Proof {
    digest: Digest,
    stored: Stored,
    key: KeyId,
    as_of: i64,
}

/// The memory of one process.
pub(crate) struct Memory<R> {
    /// Counts what was dropped.
    moment: AtomicU64,
    hashing: Scatter,
    rows: Vec<Shard<KeyId, Row<R>>>,
    proofs: Vec<Shard<CredentialId, Proof>>,
}

impl<R> Memory<R> {
    /// Holds at most about `most` keys, in `parts` parts.
    pub(crate) fn new(most: usize, parts: usize) -> Self {
        let each = most.div_ceil(parts.max(1));
        Self {
            moment: AtomicU64::new(0),
            hashing: Scatter::default(),
            rows: (0..parts.max(1)).map(|_| Part::new(each)).collect(),
            // A key in rotation has two secrets that are shown.
            proofs: (0..parts.max(1)).map(|_| Part::new(each + each / 4)).collect(),
        }
    }

    /// To be taken before a read begins (step 6 of the argument).
    pub(crate) fn generation(&self) -> Generation {
        Generation(self.moment.load(Ordering::SeqCst))
    }

    /// The row of the key whose credential `credential` is, if `digest` is that of bytes which were proved to be its
    /// secret. To be asked after the lease was read (step 4).
    pub(crate) fn find(&self, credential: CredentialId, digest: &Digest) -> Option<Remembered<R>> {
        let (key, proved_as_of) = {
            let mut part = lock(self.part(&self.proofs, &credential));
            let proof = part.held.find(&credential)?;
            if !seeded::bug(Bug::MemoryByIdAlone) && !proof.digest.matches(digest) {
                return None;
            }
            (proof.key, proof.as_of)
        };
        let mut part = lock(self.part(&self.rows, &key));
        let row = part.held.find(&key)?;
        // A row from before the credential was made knows nothing of it.
        (row.as_of >= proved_as_of).then(|| Remembered { row: Arc::clone(&row.row), as_of: row.as_of })
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
        {
            let mut part = lock(self.part(&self.rows, &key));
            if !unfenced && part.dropped > generation.0 {
                return;
            }
            if !unfenced && part.held.find(&key).is_some_and(|held| held.as_of > as_of) {
                return;
            }
            part.held.insert(key, Row { row, as_of });
        }
        let mut part = lock(self.part(&self.proofs, &credential));
        if unfenced || part.dropped <= generation.0 {
            part.held.insert(credential, Proof { digest, stored, key, as_of });
        }
    }

    /// Forgets the row of `key`, which the change `seq` touched; one that takes it into account already may stay. Reads
    /// that have begun come too late (step 5).
    pub(crate) fn drop_key(&self, key: KeyId, seq: i64) {
        let mut part = lock(self.part(&self.rows, &key));
        part.dropped = self.next_moment();
        if part.held.find(&key).is_some_and(|held| held.as_of < seq) {
            part.held.remove(&key);
        }
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

    /// How many keys are held.
    pub(crate) fn len(&self) -> usize {
        self.rows.iter().map(|part| lock(part).held.len()).sum()
    }

    fn empty<K: Copy + Eq + Hash, V>(moment: &AtomicU64, part: &Shard<K, V>) {
        let mut part = lock(part);
        if !seeded::bug(Bug::GenerationsKept) {
            part.dropped = moment.fetch_add(1, Ordering::SeqCst) + 1;
        }
        part.held.clear();
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

impl<K: Copy + Eq + Hash, V> Part<K, V> {
    fn new(most: usize) -> Shard<K, V> {
        Padded(Mutex::new(Self { dropped: 0, held: Bounded::new(most) }))
    }
}

fn lock<T>(part: &Padded<Mutex<T>>) -> impl std::ops::DerefMut<Target = T> {
    // A panic under one of these locks leaves a part that is whole: each change of it is one step.
    part.0.lock().unwrap_or_else(PoisonError::into_inner)
}
