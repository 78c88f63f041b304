//! Get and List.

use std::sync::Arc;

use super::App;
use crate::{
    domain::{ApiKey, Caller, Error, KeyId, Merchant, Reach, Result, caller::guarded, scope},
    store::{ListFilter, Position},
};

/// What is listed.
#[derive(Clone, Debug)]
pub struct ListQuery {
    /// Only keys of this merchant; none: all within reach.
    pub merchant: Option<Merchant>,
    /// Which of them.
    pub filter: ListFilter,
    /// How many at most.
    pub page_size: u32,
    /// Where the page before ended.
    pub page_token: Option<String>,
}

/// A page of keys.
#[derive(Debug)]
pub struct Page {
    /// The keys, newest first.
    pub keys: Vec<ApiKey>,
    /// Whether there are more after them.
    pub more: bool,
}

impl App {
    /// One key; a deleted one, too.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, and `Poisoned` if its terms cannot be read.
    pub async fn get(self: &Arc<Self>, caller: &Caller, id: KeyId, merchant: Option<&Merchant>) -> Result<ApiKey> {
        let reach = guarded(caller.require_unless_own(scope::KEYS_READ, id)?, merchant)?;
        let key = self.store.api_key_find_even_deleted(&reach, id).await?.ok_or(Error::NotFound)?;
        match key.terms {
            Ok(_) => Ok(key),
            Err(poisoned) => {
                self.alarms.raise_record_poisoned(poisoned);
                Err(poisoned.into())
            }
        }
    }

    /// A page of keys. Those whose terms cannot be read are among them.
    ///
    /// # Errors
    /// `Denied`, and `Invalid` for a page token of another query or caller.
    pub async fn list(self: &Arc<Self>, caller: &Caller, query: &ListQuery) -> Result<Page> {
        let reach = reach_of(caller, query)?;
        let position = match &query.page_token {
            None => None,
            Some(token) => Some(self.page_token_open(caller, query, token)?),
        };
        let most = u64::from(query.page_size);
        let mut keys = self.store.api_key_list(&reach, &query.filter, position, self.now(), most + 1).await?;
        let more = keys.len() as u64 > most;
        keys.truncate(usize::try_from(most).map_err(Error::fault)?);
        for poisoned in keys.iter().filter_map(|key| key.terms.as_ref().err()) {
            self.alarms.raise_record_poisoned(*poisoned);
        }
        Ok(Page { keys, more })
    }

    /// The token of the page that begins after `key`.
    ///
    /// # Errors
    /// Those of the random generator.
    pub fn page_token_after(&self, caller: &Caller, query: &ListQuery, key: &ApiKey) -> Result<String> {
        self.page_token_seal(caller, query, Position { create_time: key.create_time, id: key.id })
    }
}

fn reach_of(caller: &Caller, query: &ListQuery) -> Result<Reach> {
    let reach = caller.require(scope::KEYS_READ)?;
    match &query.merchant {
        None => Ok(reach),
        Some(merchant) => reach.narrowed_to(merchant),
    }
}
