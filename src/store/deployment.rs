//! What keeps a deployment together: its root secrets, and that its first administrator was made.

use sea_orm::{ActiveValue::Set, EntityTrait, QueryOrder};

use super::{
    Store, Tx,
    conversion::bytes,
    rows::{bootstrap, root_secret},
};
use crate::domain::{
    CredentialId, Error, Result, Time,
    root_secret::{RootId, RootState},
};

/// The id of the only row of `bootstrap`.
const ONCE: i16 = 1;

/// What the database knows of a root secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootRow {
    /// Its name.
    pub id: RootId,
    /// Tells it apart.
    pub fingerprint: [u8; 16],
    /// What it is used for.
    pub state: RootState,
}

impl Store {
    /// Every root secret that was ever activated.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn root_secret_list(&self) -> Result<Vec<RootRow>> {
        let select = root_secret::Entity::find().order_by_asc(root_secret::Column::K);
        let rows = self.bounded("root_secret_list", select.all(&self.reader)).await?;
        rows.into_iter()
            .map(|row| {
                let mut name = row.k.chars();
                let id = name.next().and_then(RootId::new).filter(|_| name.next().is_none());
                let state = match row.state {
                    1 => RootState::Active,
                    2 => RootState::Accepted,
                    3 => RootState::Removed,
                    other => return Err(Error::fault(format!("root secret {} has the state {other}", row.k))),
                };
                let id = id.ok_or_else(|| Error::fault(format!("a root secret is named {:?}", row.k)))?;
                Ok(RootRow { id, fingerprint: bytes(&row.fingerprint)?, state })
            })
            .collect()
    }

    /// Notes the first root secret. Fails as contended if another process was first.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn root_secret_insert(&self, root: &RootRow, now: Time) -> Result<()> {
        let row = root_secret::ActiveModel {
            k: Set(root.id.to_string()),
            fingerprint: Set(root.fingerprint.to_vec()),
            state: Set(match root.state {
                RootState::Active => 1,
                RootState::Accepted => 2,
                RootState::Removed => 3,
            }),
            activate_time: Set(now.micros()),
        };
        self.bounded("root_secret_insert", root_secret::Entity::insert(row).exec_without_returning(&self.writer))
            .await
            .map(drop)
    }

    /// Whether the first administrator was ever made, whatever became of it.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn bootstrap_is_done(&self) -> Result<bool> {
        Ok(self.bounded("bootstrap_is_done", bootstrap::Entity::find_by_id(ONCE).one(&self.reader)).await?.is_some())
    }
}

impl Tx {
    /// Notes for ever that the first administrator was made.
    ///
    /// # Errors
    /// `Unavailable::Contended` if it was made before.
    pub async fn bootstrap_insert(&self, credential_id: CredentialId, now: Time) -> Result<()> {
        let row = bootstrap::ActiveModel {
            id: Set(ONCE),
            credential_id: Set(credential_id.as_bytes().to_vec()),
            time: Set(now.micros()),
        };
        self.bounded("bootstrap_insert", bootstrap::Entity::insert(row).exec_without_returning(&self.tx))
            .await
            .map(drop)
    }
}
