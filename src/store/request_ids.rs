//! What each `request_id` did, so that a retry does it only once and gets the same answer.

use sea_orm::{ActiveValue::Set, ColumnTrait, EntityTrait, QueryFilter, sea_query::Expr};

use super::{Store, Tx, conversion::bytes, rows::request_log};
use crate::domain::{CredentialId, KeyId, Result, Time, root_secret::RootId};

/// Whose `request_id` it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// The key that the caller called with; its secret may change meanwhile.
    pub caller: KeyId,
    /// What the caller chose.
    pub request_id: String,
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
    pub sealed: Option<(RootId, Vec<u8>)>,
}

impl Tx {
    /// What this `request_id` did, if it did something.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn request_find(&self, request: &RequestKey) -> Result<Option<Replay>> {
        let select = request_log::Entity::find()
            .filter(request_log::Column::CallerKeyId.eq(request.caller.as_bytes().to_vec()))
            .filter(request_log::Column::RequestId.eq(request.request_id.as_bytes().to_vec()));
        let Some(row) = self.bounded("request_find", select.one(&self.tx)).await? else { return Ok(None) };
        let root = row.sealed_root.as_deref().and_then(|root| root.chars().next()).and_then(RootId::new);
        Ok(Some(Replay {
            fingerprint: bytes(&row.fingerprint)?,
            key_id: KeyId::from_bytes(bytes(&row.key_id)?),
            credential_id: CredentialId::from_bytes(bytes(&row.credential_id)?),
            create_time: Time::from_micros(row.create_time),
            sealed: root.zip(row.sealed),
        }))
    }

    /// Notes what a `request_id` does.
    ///
    /// # Errors
    /// `Unavailable::Contended` if it did something already, in a transaction that committed meanwhile.
    pub async fn request_insert(&self, request: &RequestKey, replay: &Replay) -> Result<()> {
        let (root, sealed) = replay.sealed.clone().unzip();
        let row = request_log::ActiveModel {
            caller_key_id: Set(request.caller.as_bytes().to_vec()),
            request_id: Set(request.request_id.as_bytes().to_vec()),
            fingerprint: Set(replay.fingerprint.to_vec()),
            key_id: Set(replay.key_id.as_bytes().to_vec()),
            credential_id: Set(replay.credential_id.as_bytes().to_vec()),
            create_time: Set(replay.create_time.micros()),
            sealed: Set(sealed),
            sealed_root: Set(root.map(|root| root.to_string())),
        };
        self.bounded("request_insert", request_log::Entity::insert(row).exec_without_returning(&self.tx))
            .await
            .map(drop)
    }
}

impl Store {
    /// Erases the sealed key strings of requests made before `time`, and says how many. No change of a key.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn request_erase_sealed_before(&self, time: Time) -> Result<u64> {
        let erase = request_log::Entity::update_many()
            .col_expr(request_log::Column::Sealed, Expr::value(None::<Vec<u8>>))
            .col_expr(request_log::Column::SealedRoot, Expr::value(None::<String>))
            .filter(request_log::Column::CreateTime.lt(time.micros()))
            .filter(request_log::Column::SealedRoot.is_not_null());
        Ok(self.bounded("request_erase_sealed_before", erase.exec(&self.writer)).await?.rows_affected)
    }
}
