//! What each `request_id` did, so that a retry does it only once and gets the same answer.
//!
//! The request itself is stored as a digest for as long as its key. The key string that it made is stored sealed, in
//! `store::sealed_replays`, for as long as it can be replayed.

use sea_orm::{ActiveValue::Set, EntityTrait};

use super::{
    Tx,
    conversion::bytes,
    rows::completed_request,
    sealed_replays::{self, Sealed},
};
use crate::domain::{CredentialId, KeyId, RequestId, Result, Time, root_secret::RootId};

/// Whose `request_id` it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// The key that the caller called with; its secret may change meanwhile.
    pub caller: KeyId,
    /// What the caller chose.
    pub request_id: RequestId,
}

/// What a `request_id` did.
#[derive(Clone, PartialEq, Eq)]
pub struct Replay {
    /// The meaning of the request.
    pub fingerprint: [u8; 32],
    /// The key that was made or rotated.
    pub key_id: KeyId,
    /// The secret that was made.
    pub credential_id: CredentialId,
    /// When.
    pub create_time: Time,
    /// The key string, sealed under the root secret with this name; none once it was erased.
    pub sealed: Option<(RootId, Sealed)>,
}

impl RequestKey {
    fn digest(&self) -> Vec<u8> {
        self.request_id.digest(self.caller).to_vec()
    }
}

impl Tx {
    /// What this `request_id` did, if it did something.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn request_find(&self, request: &RequestKey) -> Result<Option<Replay>> {
        let select = completed_request::Entity::find_by_id(request.digest());
        let Some(row) = self.bounded("request_find", select.one(&self.tx)).await? else { return Ok(None) };
        let create_time = Time::from_micros(row.create_time);
        Ok(Some(Replay {
            fingerprint: bytes(&row.fingerprint)?,
            key_id: KeyId::from_bytes(bytes(&row.key_id)?),
            credential_id: CredentialId::from_bytes(bytes(&row.credential_id)?),
            create_time,
            sealed: sealed_replays::find(self, &row.request, create_time).await?,
        }))
    }

    /// Notes what a `request_id` does.
    ///
    /// # Errors
    /// `Unavailable::Contended` if it did something already, in a transaction that committed meanwhile.
    pub async fn request_insert(&self, request: &RequestKey, replay: &Replay) -> Result<()> {
        let row = completed_request::ActiveModel {
            request: Set(request.digest()),
            fingerprint: Set(replay.fingerprint.to_vec()),
            key_id: Set(replay.key_id.as_bytes().to_vec()),
            credential_id: Set(replay.credential_id.as_bytes().to_vec()),
            create_time: Set(replay.create_time.micros()),
        };
        let insert = completed_request::Entity::insert(row);
        self.bounded("request_insert", insert.exec_without_returning(&self.tx)).await?;
        match &replay.sealed {
            Some((root, sealed)) => {
                sealed_replays::append(self, request.digest(), replay.create_time, *root, sealed).await
            }
            None => Ok(()),
        }
    }
}
