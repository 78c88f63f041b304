//! When each key was last used. In a table of its own: using a key changes nothing about it, not even its etag.

use std::collections::HashMap;

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, EntityTrait, QueryFilter,
    sea_query::{Expr, ExprTrait, OnConflict},
};

use super::{Store, conversion::bytes, rows::key_usage};
use crate::domain::{KeyId, Result, Time, ip_rules::CallerIp};

/// The last time that a key opened the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastUse {
    /// When.
    pub time: Time,
    /// From where, if that was told.
    pub ip: Option<CallerIp>,
}

/// Rows in one statement: every engine has a limit on the values in one.
const ROWS: usize = 500;

impl Store {
    /// Writes down when keys were last used, unless a later use is noted already. No change of a key.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`; what was written before it stays.
    pub async fn usage_save(&self, uses: &[(KeyId, LastUse)]) -> Result<()> {
        for uses in uses.chunks(ROWS) {
            let rows = uses.iter().map(|(id, last)| key_usage::ActiveModel {
                key_id: Set(id.as_bytes().to_vec()),
                last_used_time: Set(last.time.micros()),
                last_used_ip: Set(last.ip.map(|ip| ip.to_string())),
            });
            let later = OnConflict::column(key_usage::Column::KeyId)
                .update_columns([key_usage::Column::LastUsedTime, key_usage::Column::LastUsedIp])
                .action_and_where(
                    Expr::col(("excluded", key_usage::Column::LastUsedTime))
                        .gt(Expr::col((key_usage::Entity, key_usage::Column::LastUsedTime))),
                )
                .to_owned();
            let insert = key_usage::Entity::insert_many(rows).on_conflict(later);
            self.bounded("usage_save", insert.exec_without_returning(&self.writer)).await?;
        }
        Ok(())
    }

    /// When these keys were last used, of those that ever were.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn usage_find(&self, ids: &[KeyId]) -> Result<HashMap<KeyId, LastUse>> {
        let mut found = HashMap::new();
        for ids in ids.chunks(ROWS) {
            let wanted = ids.iter().map(|id| id.as_bytes().to_vec());
            let select = key_usage::Entity::find().filter(key_usage::Column::KeyId.is_in(wanted));
            for row in self.bounded("usage_find", select.all(&self.lister)).await? {
                found.insert(KeyId::from_bytes(bytes(&row.key_id)?), last_use(&row));
            }
        }
        Ok(found)
    }

    /// When this key was last used, if it ever was. Not by a connection of lists: the answer of a revocation contains it.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn usage_find_one(&self, id: KeyId) -> Result<Option<LastUse>> {
        let find = key_usage::Entity::find_by_id(id.as_bytes().to_vec()).one(&self.reader);
        Ok(self.bounded("usage_find", find).await?.as_ref().map(last_use))
    }
}

fn last_use(row: &key_usage::Model) -> LastUse {
    let ip = row.last_used_ip.as_ref().and_then(|ip| ip.parse().ok());
    LastUse { time: Time::from_micros(row.last_used_time), ip }
}
