//! What the verbs that change a key have in common: which key is meant, who does it, and what changed.

use std::time::Duration;

use crate::domain::{
    ApiKey, Caller, Error, KeyId, Merchant, Result, Time,
    api_key::Terms,
    audit_event::{Actor, Change},
};

/// Which key is meant, and which state of it.
#[derive(Clone, Debug)]
pub struct Target {
    /// The key.
    pub id: KeyId,
    /// Guard: whose it has to be.
    pub merchant: Option<Merchant>,
    /// The etag it has to have.
    pub etag: Option<String>,
}

/// When a key is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The moment.
    pub time: Time,
    /// The life it was told as, if it was told so: what a retry means is this, not the moment.
    pub ttl: Option<Duration>,
}

impl Expiry {
    /// Different for every request that means something else.
    pub(super) fn meaning(self) -> i128 {
        match self.ttl {
            // Moments lie far below this offset.
            Some(ttl) => i128::try_from(ttl.as_nanos()).unwrap_or(i128::MAX >> 1) + (1 << 100),
            None => i128::from(self.time.micros()),
        }
    }
}

/// `caller`, as the audit log names it.
pub(super) fn actor(caller: &Caller) -> Actor {
    Actor::Key { key_id: caller.key_id(), merchant: caller.merchant(), peer: caller.peer() }
}

/// Requires that the key still has the etag that the request names, if it names one.
pub(super) fn require_etag(target: &Target, key: &ApiKey) -> Result<()> {
    match &target.etag {
        Some(etag) if *etag != key.etag() => Err(Error::EtagMismatch),
        _ => Ok(()),
    }
}

/// The settings that differ, as the audit log tells them; for a new key those that are set.
pub(super) fn changes(before: Option<&ApiKey>, after: &ApiKey, now: Time) -> Vec<Change> {
    let to = settings(after, now);
    let from = before.map_or_else(|| to.clone().map(|(field, _)| (field, String::new())), |key| settings(key, now));
    from.into_iter()
        .zip(to)
        .filter(|((_, from), (_, to))| from != to)
        .map(|((field, from), (_, to))| Change { field, from, to })
        .collect()
}

fn settings(key: &ApiKey, now: Time) -> [(&'static str, String); 13] {
    fn list<T: ToString>(items: &[T]) -> String {
        items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
    let time = |time: Option<Time>| time.map(text).unwrap_or_default();
    let term = |tell: fn(&Terms) -> String| key.terms.as_ref().map_or_else(|_| "(unreadable)".to_owned(), tell);
    [
        ("masked_key", key.masked_key()),
        ("display_name", key.display_name.clone()),
        ("allowed_ips", term(|terms| list(&terms.ip_rules.allowed))),
        ("denied_ips", term(|terms| list(&terms.ip_rules.denied))),
        ("webhook_format", term(|terms| format!("{:?}", terms.webhook_format))),
        ("scopes", term(|terms| list(&terms.scopes))),
        ("labels", term(|terms| format!("{:?}", terms.labels))),
        ("disabled", key.disabled.to_string()),
        ("not_before_time", time(key.not_before_time)),
        ("expire_time", time(key.expire_time)),
        ("previous_secret_expire_time", time(key.previous_secret_expire_time(now))),
        ("delete_time", time(key.deletion.map(|deletion| deletion.delete_time))),
        ("delete_reason", key.deletion.map(|deletion| format!("{:?}", deletion.reason)).unwrap_or_default()),
    ]
}

/// A moment for people: microseconds since the epoch would be none.
fn text(time: Time) -> String {
    let (seconds, nanos) = time.to_timestamp();
    match (u64::try_from(seconds), u32::try_from(nanos)) {
        (Ok(seconds), Ok(nanos)) => {
            humantime::format_rfc3339_micros(std::time::UNIX_EPOCH + Duration::new(seconds, nanos)).to_string()
        }
        _ => format!("{} µs before 1970", time.micros().unsigned_abs()),
    }
}
