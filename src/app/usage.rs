//! When keys were last used: gathered in memory, written down now and then, never in the way of a call.

use std::{
    collections::HashMap,
    hash::BuildHasher,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{App, freshness::Scatter};
use crate::{
    domain::{KeyId, Result, Time, ip_rules::CallerIp, pass::Pass},
    store::LastUse,
};

/// Locks that the uses are divided among.
const PARTS: usize = 16;
/// Keys at most whose use is gathered before it is written; beyond it, those that are new are not noted.
const MOST: usize = 1_000_000 / PARTS;

type Uses = HashMap<KeyId, LastUse, Scatter>;

/// What was used and is not written yet.
#[derive(Default)]
pub(super) struct Usage {
    parts: [Mutex<Uses>; PARTS],
    flushing: tokio::sync::Mutex<()>,
}

impl Usage {
    /// Notes that the key of `pass` opened the door. A key that is used all the time is noted once a second.
    pub(super) fn note(&self, pass: &Pass, time: Time, ip: Option<CallerIp>) {
        if !pass.notes_use(time, ip) {
            return;
        }
        let key = pass.id();
        // Ids are random: their bytes are as good as a hash of them.
        let mut part = lock(&self.parts[usize::from(key.as_bytes()[0]) % PARTS]);
        if part.len() < MOST || part.contains_key(&key) {
            note_in(&mut part, key, LastUse { time, ip });
        }
    }

    fn find(&self, key: KeyId) -> Option<LastUse> {
        lock(&self.parts[usize::from(key.as_bytes()[0]) % PARTS]).get(&key).copied()
    }

    fn take(&self) -> Vec<(KeyId, LastUse)> {
        self.parts.iter().flat_map(|part| std::mem::take(&mut *lock(part))).collect()
    }

    fn put_back(&self, uses: Vec<(KeyId, LastUse)>) {
        for (key, last) in uses {
            note_in(&mut lock(&self.parts[usize::from(key.as_bytes()[0]) % PARTS]), key, last);
        }
    }
}

fn note_in<S: BuildHasher>(part: &mut HashMap<KeyId, LastUse, S>, key: KeyId, last: LastUse) {
    let noted = part.entry(key).or_insert(last);
    if noted.time <= last.time {
        *noted = last;
    }
}

fn lock(part: &Mutex<Uses>) -> MutexGuard<'_, Uses> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Uses that are written in one turn at the writer.
const SAVED_AT_ONCE: usize = 500;

impl App {
    /// Writes down when keys were last used. To be called once a minute, and when no further call comes in.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`; then nothing is lost, and the next time tries again.
    pub async fn flush_usage(&self) -> Result<()> {
        // What a flush that is under way still holds is not lost at a stop: the last flush waits for it.
        let _flushing = self.usage.flushing.lock().await;
        let uses = self.usage.take();
        if uses.is_empty() {
            return Ok(());
        }
        let mut saved = 0;
        // A turn for each part, so that a change waits for no more than that.
        for part in uses.chunks(SAVED_AT_ONCE) {
            let turn = self.changes.background().await;
            let outcome = self.store.usage_save(part).await;
            drop(turn);
            if outcome.is_err() {
                self.usage.put_back(uses[saved..].to_vec());
                return outcome;
            }
            saved += part.len();
        }
        Ok(())
    }

    /// When these keys were last used, as far as it is known here: other replicas write what they know once a minute.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn last_uses(&self, keys: &[KeyId]) -> Result<HashMap<KeyId, LastUse>> {
        let mut uses = self.store.usage_find(keys).await?;
        for key in keys {
            if let Some(last) = self.usage.find(*key) {
                note_in(&mut uses, *key, last);
            }
        }
        Ok(uses)
    }

    /// The same of one key.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn last_use(&self, key: KeyId) -> Result<Option<LastUse>> {
        let mut uses: HashMap<_, _> =
            self.store.usage_find_one(key).await?.map(|last| (key, last)).into_iter().collect();
        if let Some(last) = self.usage.find(key) {
            note_in(&mut uses, key, last);
        }
        Ok(uses.remove(&key))
    }
}
