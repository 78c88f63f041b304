//! The feed: every change of a key has a number, without gaps and in the order of the commits.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, ConnectionTrait, EntityTrait, FromQueryResult, QueryFilter, QueryTrait,
    sea_query::{Expr, ExprTrait},
};

use super::{
    Store, Tx, failure,
    rows::{change_log, feed_head},
    tx::exactly_one,
};
#[cfg(feature = "checker")]
use crate::seeded;
use crate::{
    domain::{Error, Result, audit_event::AuditEvent, error::Unavailable},
    migrations::VERSION,
};

/// The oldest schema that a binary must know to run on this database, in one column.
pub(super) const OLDEST_BINARY: &str = "(SELECT CAST(v.oldest_binary AS BIGINT) FROM schema_version AS v)";

/// The id of the only row of `feed_head`.
pub(super) const HEAD: i16 = 1;

/// A state of the database: the history it belongs to, and the number of the last change. Opaque to callers.
///
/// Cheap to clone, and it has its text at hand, which nearly every answer tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision(Arc<State>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    epoch: Arc<str>,
    seq: i64,
    text: String,
}

impl Revision {
    /// The state of the history `epoch` after the change `seq`.
    pub fn new(epoch: impl Into<Arc<str>>, seq: i64) -> Self {
        let epoch = epoch.into();
        let text = format!("{epoch}.{seq}");
        Self(Arc::new(State { epoch, seq, text }))
    }

    /// The name of the history.
    pub fn epoch(&self) -> &Arc<str> {
        &self.0.epoch
    }

    /// As callers see it.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// The same, counted by nobody else: clones of one are counted together, where all cores have to write.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self(Arc::new(State::clone(&self.0)))
    }

    /// This state, or that after the change `seq` of the same history, whichever is later.
    #[must_use]
    pub fn or_after(&self, seq: i64) -> Self {
        if seq <= self.seq() { self.clone() } else { Self::new(Arc::clone(self.epoch()), seq) }
    }

    /// The number of the last change.
    pub fn seq(&self) -> i64 {
        self.0.seq
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Revision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "is no revision; send one that this service answered with, as it was".to_owned();
        let (epoch, seq) = text.rsplit_once('.').ok_or_else(wrong)?;
        let plain = !epoch.is_empty() && epoch.len() <= 22 && epoch.bytes().all(|b| b.is_ascii_alphanumeric());
        let seq = seq.parse::<i64>().ok().filter(|seq| *seq >= 0).ok_or_else(wrong)?;
        let revision = Self::new(epoch, seq);
        // Only the one spelling: no signs, no zeros in front.
        if plain && revision.as_str() == text { Ok(revision) } else { Err(wrong()) }
    }
}

/// The feed's head, and what every replica has to agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The last change.
    pub revision: Revision,
    /// How long a replica may answer from memory after a poll began.
    pub lease: Duration,
    /// How long after a commit every lease has run out that does not know of it.
    pub wait: Duration,
    /// How often the lease was set.
    pub lease_changes: i64,
    /// How often an operator accepted what an anomaly put in doubt.
    pub accepts: i64,
    /// Whether lease and wait are as the database's constraints require. If not, no lease may be granted, and the wait is
    /// [`LONGEST_WAIT`].
    pub is_lease_valid: bool,
}

/// The shortest lease and the longest one, in milliseconds.
const LEASES: std::ops::RangeInclusive<i64> = 500..=10_000;
/// The wait that goes with the longest lease.
pub const LONGEST_WAIT: Duration = Duration::from_millis(10_500);

/// The least wait that goes with a lease: a twentieth longer, for clocks that do not run alike, in whole milliseconds.
pub fn wait_for(lease: Duration) -> Duration {
    Duration::from_millis(u64::try_from((lease.as_micros() * 21).div_ceil(20_000)).unwrap_or(u64::MAX))
}

impl From<feed_head::Model> for Head {
    fn from(row: feed_head::Model) -> Self {
        let milliseconds = |stored: i64| Duration::from_millis(u64::try_from(stored).unwrap_or(0));
        let (lease, wait) = (milliseconds(row.lease_ms), milliseconds(row.wait_ms));
        // The database has constraints for this. A row that breaks them all the same is not trusted: a
        // lease that is longer than the wait accepts keys after their revocation was answered.
        let is_lease_valid = LEASES.contains(&row.lease_ms) && wait >= wait_for(lease);
        let wait = if is_lease_valid { wait } else { LONGEST_WAIT };
        let revision = Revision::new(row.epoch, row.seq);
        Self { revision, lease, wait, lease_changes: row.lease_changes, accepts: row.accepts, is_lease_valid }
    }
}

fn head(row: Option<feed_head::Model>) -> Result<Head> {
    row.map(Head::from).ok_or_else(|| Error::fault("feed_head has no row"))
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
        self.feed_state().await.map(|head| head.revision)
    }

    /// The last committed change, and what goes with it.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn feed_state(&self) -> Result<Head> {
        head(self.bounded("feed_state", feed_head::Entity::find_by_id(HEAD).one(&self.reader)).await?)
    }
}

impl Tx {
    pub(super) async fn feed_next(&self) -> Result<Head> {
        let next = feed_head::Entity::update_many()
            .col_expr(feed_head::Column::Seq, Expr::col(feed_head::Column::Seq).add(1))
            .filter(feed_head::Column::Id.eq(HEAD));
        #[cfg(feature = "checker")]
        if seeded::bug(seeded::Bug::AutoIncrementPoll) {
            // As a sequence would: at once, for everybody, and not given back.
            let taken = head(self.bounded("feed_next", next.exec_with_returning(&self.beside)).await?.pop())?;
            seeded::race("auto-increment: numbered, not committed").await;
            return Ok(taken);
        }
        exactly_one("feed_next", self.bounded("feed_next", next.exec(&self.tx)).await?.rows_affected)?;
        let mut select = feed_head::Entity::find_by_id(HEAD).into_query();
        select.expr_as(Expr::cust(OLDEST_BINARY), "oldest_binary");
        let row = self.bounded("feed_next", self.tx.query_one(&select)).await?;
        let row = row.ok_or_else(|| Error::fault("feed_head has no row"))?;
        let oldest_binary: i64 = row.try_get("", "oldest_binary").map_err(failure::of)?;
        if oldest_binary > i64::from(VERSION) {
            return Err(Error::Unavailable(Unavailable::Draining));
        }
        feed_head::Model::from_query_result(&row, "").map(Head::from).map_err(failure::of)
    }

    /// The last change that this transaction sees, and what goes with it.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn feed_state(&self) -> Result<Head> {
        head(self.bounded("feed_state", feed_head::Entity::find_by_id(HEAD).one(&self.tx)).await?)
    }

    pub(super) async fn change_log_insert(&self, revision: &Revision, event: &AuditEvent, nonce: i64) -> Result<()> {
        let row = change_log::ActiveModel {
            seq: Set(revision.seq()),
            key_id: Set(event.key_id.as_bytes().to_vec()),
            kind: Set(event.action as i16),
            nonce: Set(nonce),
            time: Set(event.time.micros()),
            version: Set(event.version),
        };
        self.bounded("change_log_insert", change_log::Entity::insert(row).exec_without_returning(&self.tx))
            .await
            .map(drop)
    }
}
