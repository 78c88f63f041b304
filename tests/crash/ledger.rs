//! What was asked of each key, and what was acknowledged.

use std::time::Instant;

use claviger::grpc::proto;

/// Everything that one writer asked for. A writer has keys of its own and asks one thing at a time, so that the state of
/// a key is known but for the one change that the kill interrupted.
#[derive(Default)]
pub struct Ledger {
    pub keys: Vec<Key>,
    /// Changes that were acknowledged since the tables were last looked at.
    pub acknowledged: Vec<Acknowledged>,
    /// How many were acknowledged in all.
    pub count: u64,
}

/// A change with its number in the feed.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    pub revision: String,
    pub key_id: String,
    pub action: Action,
}

/// The numbers that the database has for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Create = 1,
    Update = 2,
    Delete = 3,
    Rotate = 4,
}

/// A key, from the first time it was asked for.
pub struct Key {
    pub create: proto::CreateRequest,
    pub asked: Instant,
    /// None until its Create was acknowledged.
    pub known: Option<Known>,
    /// What was asked last, if it was not answered.
    pub pending: Option<Pending>,
}

/// A key that is there.
#[derive(Clone)]
pub struct Known {
    pub id: String,
    /// Key strings, the current one last.
    pub secrets: Vec<String>,
    /// The request that made the current one, if it was a Rotate.
    pub rotate: Option<proto::RotateRequest>,
    /// Which settings it has: see [`settings`].
    pub settings: u64,
    pub deleted: bool,
}

/// A change that may be there or not.
#[derive(Clone)]
pub enum Pending {
    Create,
    Update(u64),
    Rotate(proto::RotateRequest),
    Delete,
}

impl Known {
    pub fn current(&self) -> &str {
        self.secrets.last().map_or("", String::as_str)
    }
}

/// Settings number `n`: each value of them tells the number, so that a mixture of two is seen.
pub fn settings(n: u64) -> proto::ApiKey {
    proto::ApiKey {
        merchant_username: MERCHANT.to_owned(),
        display_name: format!("settings {n}"),
        allowed_ips: vec![address(n)],
        scopes: vec![format!("n:{n}")],
        labels: [("n".to_owned(), n.to_string())].into(),
        ..Default::default()
    }
}

/// The address that a key with settings number `n` may be used from.
pub fn address(n: u64) -> String {
    format!("10.{}.{}.{}", (n >> 16) & 0xFF, (n >> 8) & 0xFF, n & 0xFF)
}

/// The number that all settings of `key` tell; none if they do not agree.
pub fn number_of(key: &proto::ApiKey) -> Option<u64> {
    let n = key.labels.get("n")?.parse().ok()?;
    let wanted = settings(n);
    let agrees = key.display_name == wanted.display_name
        && key.allowed_ips == wanted.allowed_ips
        && key.scopes == wanted.scopes
        && key.labels == wanted.labels;
    agrees.then_some(n)
}

/// The merchant of all keys that the writers make.
pub const MERCHANT: &str = "crash";
