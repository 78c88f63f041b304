//! The audit log: one entry for each number of the feed.

use sea_orm::{ActiveValue::Set, EntityTrait};
use serde::Serialize;

use super::{Revision, Tx, conversion::reason_number, rows::audit_log};
use crate::domain::{
    Error, Result,
    audit_event::{Actor, AuditEvent, Change},
};

/// How a change is stored, inside a JSON list.
#[derive(Serialize)]
struct StoredChange<'a> {
    field: &'a str,
    from: &'a str,
    to: &'a str,
}

impl<'a> From<&'a Change> for StoredChange<'a> {
    fn from(change: &'a Change) -> Self {
        Self { field: change.field, from: &change.from, to: &change.to }
    }
}

impl Tx {
    pub(super) async fn audit_insert(&self, revision: &Revision, event: &AuditEvent) -> Result<()> {
        let changes: Vec<StoredChange<'_>> = event.changes.iter().map(StoredChange::from).collect();
        let (kind, key_id, merchant, peer) = match &event.actor {
            Actor::Key { key_id, merchant, peer } => (1, Some(key_id), Some(merchant), Some(peer)),
            Actor::Bootstrap => (2, None, None, None),
            Actor::Recovery => (3, None, None, None),
            Actor::Upkeep => (4, None, None, None),
        };
        let row = audit_log::ActiveModel {
            seq: Set(revision.seq()),
            time: Set(event.time.micros()),
            actor_kind: Set(kind),
            actor_key_id: Set(key_id.map(|id| id.as_bytes().to_vec())),
            actor_merchant: Set(merchant.map(ToString::to_string)),
            peer: Set(peer.map(ToString::to_string)),
            action: Set(event.action as i16),
            key_id: Set(event.key_id.as_bytes().to_vec()),
            merchant_username: Set(event.merchant.to_string()),
            changes: Set(serde_json::to_string(&changes).map_err(Error::fault)?),
            reason: Set(reason_number(event.reason)),
            note: Set(event.note.clone()),
        };
        self.bounded("audit_insert", audit_log::Entity::insert(row).exec_without_returning(&self.tx)).await.map(drop)
    }
}
