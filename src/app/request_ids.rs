//! `request_id`: a retried Create or Rotate neither makes a second secret nor loses the first.
//!
//! The key string is kept for 15 minutes, sealed under a key that is derived from the root secret and the `request_id`;
//! upkeep erases it then.

use std::{sync::Arc, time::Duration};

use sha2::{Digest, Sha256};

use super::{
    App,
    mutation::{Settled, Step},
};
use crate::{
    domain::{
        ApiKey, Caller, Error, Reach, Result, Time,
        error::{Precondition, Unavailable},
        key_ring::{Found, KeyRing},
        key_string::{KeyString, MAX_LENGTH, Proof},
        sealed,
    },
    store::{Replay, RequestKey, Tx},
};
use rand::rngs::SysRng;
use zeroize::Zeroizing;

/// What fills a key string up to its longest form; no key string contains it.
const PADDING: char = '\0';

/// For how long a replay shows the key string again.
pub const SHOWN_AGAIN_FOR: Duration = Duration::from_secs(15 * 60);

/// A digest of what a request means, whatever its spelling. Every part is preceded by its length.
pub(super) struct Meaning(Sha256);

impl Meaning {
    pub(super) fn of(verb: &str) -> Self {
        Self(Sha256::new()).with(verb.as_bytes())
    }

    #[must_use]
    pub(super) fn with(mut self, part: impl AsRef<[u8]>) -> Self {
        let part = part.as_ref();
        self.0.update((part.len() as u64).to_be_bytes());
        self.0.update(part);
        self
    }

    /// A list whose order means nothing.
    #[must_use]
    pub(super) fn with_set<T: ToString>(self, items: impl IntoIterator<Item = T>) -> Self {
        let mut items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
        items.sort_unstable();
        let count = (items.len() as u64).to_be_bytes();
        items.iter().fold(self.with(count), Self::with)
    }

    /// A number that may be absent.
    #[must_use]
    pub(super) fn with_number(self, number: Option<i128>) -> Self {
        match number {
            None => self.with([]),
            Some(number) => self.with(number.to_be_bytes()),
        }
    }

    pub(super) fn fingerprint(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

impl App {
    /// The answer to a request whose `request_id` did its work before, for a caller whose rights over `key` were judged.
    pub(super) fn replay(
        &self,
        request: &RequestKey,
        replay: &Replay,
        fingerprint: [u8; 32],
        key: ApiKey,
        now: Time,
    ) -> Result<Step> {
        if replay.fingerprint != fingerprint {
            return Err(Precondition::RequestIdReused.into());
        }
        if now.since(replay.create_time) >= SHOWN_AGAIN_FOR {
            return Err(Error::RequestIdExpired(key.id));
        }
        if replay.credential_id != key.current {
            return Err(Precondition::RequestIdSuperseded.into());
        }
        let ring = self.ring();
        if let Some((root, _)) = &replay.sealed
            && matches!(ring.find(*root), Found::NotMounted)
        {
            return Err(Error::Unavailable(Unavailable::RootSecret(root.as_char())));
        }
        let shown = replay
            .sealed
            .as_ref()
            .and_then(|(root, sealed)| match ring.find(*root) {
                Found::Mounted(root) => {
                    sealed::open(&root.replay_key(&request.request_id), &context(request, replay), sealed)
                }
                Found::NotMounted | Found::Removed | Found::Unknown => None,
            })
            .and_then(|padded| self.proved(std::str::from_utf8(&padded).ok()?.trim_end_matches(PADDING), &ring));
        match shown {
            Some(shown) => Ok(Step::Settled(Box::new(Settled { api_key: key, replayed: Some(Arc::new(shown)) }))),
            None => Err(Error::RequestIdExpired(key.id)),
        }
    }

    fn proved(&self, text: &str, ring: &KeyRing) -> Option<KeyString> {
        match self.settings.key_format.parse(text).ok()?.prove(ring) {
            Proof::Ours(tagged) => tagged.key_string(),
            Proof::Forged | Proof::RootNotMounted(_) | Proof::RootUnknown(_) => None,
        }
    }

    /// Notes in `tx` that `request` made `key` for `api_key`.
    pub(super) async fn remember(
        &self,
        tx: &Tx,
        request: &RequestKey,
        fingerprint: [u8; 32],
        api_key: &ApiKey,
        key: &KeyString,
        now: Time,
    ) -> Result<()> {
        let ring = self.ring();
        let root = ring.active()?;
        let mut replay = Replay {
            fingerprint,
            key_id: api_key.id,
            credential_id: key.credential_id(),
            create_time: now,
            sealed: None,
        };
        // Padded, so that every sealed text has the same length: it is erased where it is, without moving its neighbours.
        let mut padded = Zeroizing::new(key.reveal().to_owned().into_bytes());
        padded.resize(MAX_LENGTH, PADDING as u8);
        let sealed =
            sealed::seal(&root.replay_key(&request.request_id), &context(request, &replay), &padded, &mut SysRng)
                .map_err(Error::fault)?;
        replay.sealed = Some((root.id(), sealed.try_into().map_err(|_| Error::fault("a replay has another length"))?));
        tx.request_insert(request, &replay).await
    }

    /// What `request` did before and to which key, if the caller still reaches that key.
    pub(super) async fn find_replay(
        &self,
        tx: &Tx,
        request: &RequestKey,
        reach: &Reach,
        caller: &Caller,
    ) -> Result<Option<(Replay, ApiKey)>> {
        let Some(replay) = tx.request_find(request).await? else { return Ok(None) };
        let key = tx.api_key_peek_even_deleted(reach, replay.key_id).await?.ok_or(Error::NotFound)?;
        caller.require_change_of(&key)?;
        Ok(Some((replay, key)))
    }
}

/// What a sealed key string belongs to, so that it cannot be read out of another row.
fn context(request: &RequestKey, replay: &Replay) -> Vec<u8> {
    [*request.caller.as_bytes(), *replay.key_id.as_bytes(), *replay.credential_id.as_bytes()].concat()
}
