//! Refused acts, in a table of their own that takes no lock of the feed: nobody can queue out a Delete by being refused.

use sea_orm::{
    ActiveValue::{NotSet, Set},
    ColumnTrait, EntityTrait, QueryFilter,
};

use super::{Store, rows::refusal_log};
use crate::domain::{KeyId, Merchant, Result, Time, ip_rules::CallerIp};

/// That a caller was refused something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedAct {
    /// When.
    pub time: Time,
    /// The key it called with.
    pub actor: KeyId,
    /// Whose.
    pub merchant: Merchant,
    /// From where.
    pub peer: CallerIp,
    /// What it asked for.
    pub rpc: &'static str,
    /// Why it did not get it: a value of the API's `ErrorReason`.
    pub reason: &'static str,
    /// How many refusals before this one were not written down, for there were too many.
    pub suppressed: i64,
}

impl Store {
    /// Writes down a refused act. No change of a key.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn refusal_insert(&self, act: &RefusedAct) -> Result<()> {
        let row = refusal_log::ActiveModel {
            id: NotSet,
            time: Set(act.time.micros()),
            actor_key_id: Set(act.actor.as_bytes().to_vec()),
            actor_merchant: Set(act.merchant.to_string()),
            peer: Set(act.peer.to_string()),
            rpc: Set(act.rpc.to_owned()),
            reason: Set(act.reason.to_owned()),
            suppressed: Set(act.suppressed),
        };
        self.bounded("refusal_insert", refusal_log::Entity::insert(row).exec_without_returning(&self.writer))
            .await
            .map(drop)
    }

    /// Forgets the refused acts before `time`.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn refusal_forget_before(&self, time: Time) -> Result<()> {
        let old = refusal_log::Entity::delete_many().filter(refusal_log::Column::Time.lt(time.micros()));
        self.bounded("refusal_forget_before", old.exec(&self.writer)).await.map(drop)
    }
}
