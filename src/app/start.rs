//! Starting: the root secrets that are mounted against those the database knows.

use crate::{
    domain::{
        Error, Time,
        error::Unavailable,
        key_ring::{KeyRing, RootStates},
        root_secret::{RootSecret, RootState},
    },
    store::{RootRow, Store},
};

/// Why the service does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database.
    #[error("{0}")]
    Database(#[from] Error),
    /// A root secret, told in words.
    #[error("{0}")]
    RootSecret(String),
}

/// Puts the key ring together. On a database that knows no root secret the only mounted one becomes active.
pub(super) async fn key_ring(store: &Store, now: Time, mounted: Vec<RootSecret>) -> Result<KeyRing, StartError> {
    let mut rows = store.root_secret_list().await?;
    if rows.is_empty() {
        let only = match mounted.as_slice() {
            [only] => only,
            [] => return refuse("there is no root secret in the folder; make one with `openssl rand -hex 32`"),
            several => {
                let names: Vec<String> = several.iter().map(|root| format!("`{}`", root.id())).collect();
                return refuse(format!(
                    "the database is new and the folder holds the root secrets {}; leave only the one to begin with",
                    names.join(", ")
                ));
            }
        };
        let row = RootRow { id: only.id(), fingerprint: *only.fingerprint(), state: RootState::Active };
        match store.root_secret_insert(&row, now).await {
            // Contended: another process was first, and what it noted is read now.
            Ok(()) | Err(Error::Unavailable(Unavailable::Contended(_))) => rows = store.root_secret_list().await?,
            Err(error) => return Err(error.into()),
        }
    }
    for row in rows.iter().filter(|row| row.state != RootState::Removed) {
        match mounted.iter().find(|root| root.id() == row.id) {
            Some(root) if *root.fingerprint() == row.fingerprint => {}
            Some(_) => {
                return refuse(format!(
                    "the root secret `{}` in the folder is not the one this database was used with; mount the right folder",
                    row.id
                ));
            }
            None => return refuse(format!("the root secret `{}` is in use and not in the folder; mount it", row.id)),
        }
    }
    let mut states = RootStates::default();
    for RootRow { id, fingerprint, state } in rows {
        states.insert(id, state, fingerprint);
    }
    let ring = KeyRing::new(mounted, states);
    match ring.active() {
        Ok(_) => Ok(ring),
        Err(error) => refuse(error.to_string()),
    }
}

fn refuse<T>(why: impl Into<String>) -> Result<T, StartError> {
    Err(StartError::RootSecret(why.into()))
}
