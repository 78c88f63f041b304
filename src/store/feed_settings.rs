//! What an operator says to all replicas through the feed: a new history, the length of the lease, what to accept.
//!
//! None of it changes a key, so none of it takes a number.

use std::time::Duration;

use sea_orm::{
    ColumnTrait, EntityTrait, QueryFilter, QueryOrder,
    sea_query::{Expr, ExprTrait, SimpleExpr},
};

use super::{
    Head, Store,
    feed::HEAD,
    rows::{change_log, feed_head},
    tx::exactly_one,
};
use crate::domain::{Error, Result, Time};

impl Store {
    /// Gives the history another name, so that every replica forgets what it remembers. The answer tells how long to
    /// wait until none can answer from before it.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn feed_new_epoch(&self, epoch: &str) -> Result<Head> {
        self.feed_set(vec![(feed_head::Column::Epoch, Expr::value(epoch))]).await
    }

    /// Lets every replica forget what it saw revoked in another history.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn feed_accept(&self) -> Result<Head> {
        let accepts = Expr::col(feed_head::Column::Accepts).add(1);
        self.feed_set(vec![(feed_head::Column::Accepts, accepts)]).await
    }

    /// Sets the length of the lease. `wait` is the longer of the old wait and that of the new lease: leases that were
    /// granted before have to run out, too.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn feed_set_lease(&self, lease: Duration, wait: Duration) -> Result<Head> {
        let wait = milliseconds(wait)?;
        let longer = Expr::case(Expr::col(feed_head::Column::WaitMs).lt(wait), wait)
            .finally(Expr::col(feed_head::Column::WaitMs));
        self.feed_set(vec![
            (feed_head::Column::LeaseMs, Expr::value(milliseconds(lease)?)),
            (feed_head::Column::WaitMs, longer.into()),
            (feed_head::Column::LeaseChanges, Expr::col(feed_head::Column::LeaseChanges).add(1)),
        ])
        .await
    }

    /// Lets the wait sink to `wait`, now that every longer lease has run out; false if the lease was set again since it
    /// was `set`.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn feed_sink_wait(&self, set: &Head, wait: Duration) -> Result<bool> {
        let update = feed_head::Entity::update_many()
            .col_expr(feed_head::Column::WaitMs, Expr::value(milliseconds(wait)?))
            .filter(feed_head::Column::Id.eq(HEAD))
            .filter(feed_head::Column::LeaseChanges.eq(set.lease_changes))
            // Whatever set the lease: the wait is never under a lease and its twentieth.
            .filter(Expr::col(feed_head::Column::LeaseMs).mul(21).add(19).div(20).lte(milliseconds(wait)?));
        Ok(self.bounded("feed_sink_wait", update.exec(&self.writer)).await?.rows_affected == 1)
    }

    /// When the last change was made; none before the first.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn feed_last_change(&self) -> Result<Option<Time>> {
        let last = change_log::Entity::find().order_by_desc(change_log::Column::Seq).one(&self.reader);
        Ok(self.bounded("feed_last_change", last).await?.map(|row| Time::from_micros(row.time)))
    }

    async fn feed_set(&self, columns: Vec<(feed_head::Column, SimpleExpr)>) -> Result<Head> {
        let mut update = feed_head::Entity::update_many().filter(feed_head::Column::Id.eq(HEAD));
        for (column, value) in columns {
            update = update.col_expr(column, value);
        }
        // What was set, by the statement that set it: a second one might show what another operator set meanwhile, and
        // the wait would sink on that one's guard.
        let mut set = self.bounded("feed_set", update.exec_with_returning(&self.writer)).await?;
        exactly_one("feed_set", set.len() as u64)?;
        set.pop().map(Head::from).ok_or_else(|| Error::fault("feed_head has no row"))
    }
}

fn milliseconds(duration: Duration) -> Result<i64> {
    i64::try_from(duration.as_millis()).map_err(Error::fault)
}
