//! What keeps a deployment together: its root secrets, and that its first administrator was made.

use std::sync::PoisonError;

use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait,
    sea_query::SelectStatement,
};

use super::{
    Engine, Store, Tx,
    conversion::{bytes, root_text},
    rows::{bootstrap, root_secret},
};
use crate::domain::{
    CredentialId, Error, Result, Time,
    error::Unavailable,
    key_ring::RootStates,
    root_secret::{RootId, RootState},
};

/// The number of the state in which new secrets are made under a root secret.
const ACTIVE: i16 = 1;

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

/// The states of all root secrets in one column, so that they are of the same snapshot as the rest of the row: of each its
/// name, the number of its state, and its fingerprint in hexadecimal digits.
pub(super) fn states_of_root_secrets(engine: Engine) -> &'static str {
    match engine {
        Engine::Sqlite => "(SELECT group_concat(r.k || r.state || hex(r.fingerprint), ',') FROM root_secret AS r)",
        Engine::Postgres => {
            "(SELECT string_agg(r.k || r.state || encode(r.fingerprint, 'hex'), ',') FROM root_secret AS r)"
        }
    }
}

/// Reads the column of [`states_of_root_secrets`]; null if there is none.
///
/// # Errors
/// `Fault` if it cannot be read.
pub(super) fn root_states(column: Option<&str>) -> Result<RootStates> {
    let mut states = RootStates::default();
    for record in column.unwrap_or_default().split(',').filter(|record| !record.is_empty()) {
        let (id, state, fingerprint) = root_record(record)
            .ok_or_else(|| Error::fault("the table root_secret has a row that this version cannot read"))?;
        states.insert(id, state, fingerprint);
    }
    Ok(states)
}

fn root_record(record: &str) -> Option<(RootId, RootState, [u8; 16])> {
    let mut characters = record.chars();
    let id = RootId::new(characters.next()?)?;
    let state = root_state(characters.next()?.to_digit(10)?)?;
    let digits = characters.as_str().as_bytes();
    let mut fingerprint = [0; 16];
    if digits.len() != 2 * fingerprint.len() {
        return None;
    }
    for (byte, pair) in fingerprint.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some((id, state, fingerprint))
}

fn root_state(stored: u32) -> Option<RootState> {
    match stored {
        1 => Some(RootState::Active),
        2 => Some(RootState::Accepted),
        3 => Some(RootState::Removed),
        _ => None,
    }
}

/// Selects the root secret `id` if it is the active one.
pub(super) fn active_root_secret(id: Option<RootId>) -> SelectStatement {
    root_secret::Entity::find()
        .select_only()
        .column(root_secret::Column::K)
        .filter(root_secret::Column::K.eq(root_text(id)))
        .filter(root_secret::Column::State.eq(ACTIVE))
        .into_query()
}

impl Tx {
    /// Notes under which root secrets a credential was made that this transaction stores.
    pub(super) fn note_made_under(&self, roots: [Option<RootId>; 2]) {
        self.made_under.lock().unwrap_or_else(PoisonError::into_inner).extend(roots.into_iter().flatten());
    }

    /// Requires that every secret that this transaction stores was made under the active root secret. To be called under
    /// the lock of the feed, which every change of a root secret's state takes.
    ///
    /// # Errors
    /// `Unavailable::RootSecretNotActive`: the secret has to be made again.
    pub(super) async fn require_active_root_secrets(&self) -> Result<()> {
        let made_under = self.made_under.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for root in made_under {
            let active = active_root_secret(Some(root));
            if self.bounded("require_active_root_secrets", self.tx.query_one(&active)).await?.is_none() {
                return Err(Error::Unavailable(Unavailable::RootSecretNotActive(root.as_char())));
            }
        }
        Ok(())
    }
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
                let state = u32::try_from(row.state).ok().and_then(root_state);
                let state =
                    state.ok_or_else(|| Error::fault(format!("root secret {} has the state {}", row.k, row.state)))?;
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
                RootState::Active => ACTIVE,
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
