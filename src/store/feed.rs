//! The feed: every change of a key has a number, without gaps and in the order of the commits.

use std::fmt;

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, EntityTrait, QueryFilter,
    sea_query::{Expr, ExprTrait},
};

use super::{
    Store, Tx,
    rows::{change_log, feed_head},
    tx::exactly_one,
};
use crate::domain::{Error, Result, audit_event::AuditEvent};

/// The id of the only row of `feed_head`.
pub(super) const HEAD: i16 = 1;

/// A state of the database: the history it belongs to, and the number of the last change. Opaque to callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    epoch: String,
    seq: i64,
}

impl Revision {
    pub(super) fn new(epoch: String, seq: i64) -> Self {
        Self { epoch, seq }
    }

    /// The number of the last change.
    pub fn seq(&self) -> i64 {
        self.seq
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.seq)
    }
}

impl Store {
    /// Gives the history its name, if it has none yet.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn feed_begin(&self, epoch: &str) -> Result<()> {
        let name = feed_head::Entity::update_many()
            .col_expr(feed_head::Column::Epoch, Expr::value(epoch))
            .filter(feed_head::Column::Id.eq(HEAD))
            .filter(feed_head::Column::Epoch.eq(""));
        self.bounded("feed_begin", name.exec(&self.writer)).await.map(drop)
    }

    /// The last committed change.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn feed_head(&self) -> Result<Revision> {
        let head = self.bounded("feed_head", feed_head::Entity::find_by_id(HEAD).one(&self.reader)).await?;
        head.map(|head| Revision::new(head.epoch, head.seq)).ok_or_else(|| Error::fault("feed_head has no row"))
    }
}

impl Tx {
    pub(super) async fn feed_next(&self) -> Result<Revision> {
        let next = feed_head::Entity::update_many()
            .col_expr(feed_head::Column::Seq, Expr::col(feed_head::Column::Seq).add(1))
            .filter(feed_head::Column::Id.eq(HEAD));
        exactly_one("feed_next", self.bounded("feed_next", next.exec(&self.tx)).await?.rows_affected)?;
        self.feed_head().await
    }

    /// The last change that this transaction sees.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn feed_head(&self) -> Result<Revision> {
        let head = self.bounded("feed_head", feed_head::Entity::find_by_id(HEAD).one(&self.tx)).await?;
        head.map(|head| Revision::new(head.epoch, head.seq)).ok_or_else(|| Error::fault("feed_head has no row"))
    }

    pub(super) async fn change_log_insert(&self, revision: &Revision, event: &AuditEvent, nonce: i64) -> Result<()> {
        let row = change_log::ActiveModel {
            seq: Set(revision.seq),
            key_id: Set(event.key_id.as_bytes().to_vec()),
            kind: Set(event.action as i16),
            nonce: Set(nonce),
            time: Set(event.time.micros()),
        };
        self.bounded("change_log_insert", change_log::Entity::insert(row).exec_without_returning(&self.tx))
            .await
            .map(drop)
    }
}
