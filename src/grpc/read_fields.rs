//! Reading single fields of requests into words of the domain, noting what is wrong with each.

use std::{collections::BTreeMap, str::FromStr, time::Duration};

use crate::{
    app::{Expiry, MAX_OVERLAP},
    domain::{
        DeleteReason, KeyId, Merchant, RequestId, Scope, State, Time, WebhookFormat,
        api_key::{MAX_LABELS, MAX_NOTE, label_key, label_value},
        fields::Fields,
        ip_rules::{IpBlock, MAX_BLOCKS},
        scope,
        text::plain_text,
    },
    grpc::proto,
};

/// What is wrong with a moment that has to be in the future.
pub(super) const IN_THE_PAST: &str = "lies in the past; name a moment in the future, or leave it empty";

pub(super) fn key_id(fields: &mut Fields<'_>, field: &str, text: &str) -> Option<KeyId> {
    fields.read(field, text, str::parse)
}

/// A merchant that may be absent.
pub(super) fn merchant(fields: &mut Fields<'_>, field: &str, text: &str) -> Option<Option<Merchant>> {
    if text.is_empty() { Some(None) } else { fields.read(field, text, str::parse).map(Some) }
}

/// An etag that may be absent. One that was never given is no error of form: it just matches nothing.
pub(super) fn etag(fields: &mut Fields<'_>, field: &str, text: &str) -> Option<Option<String>> {
    fields.read(field, text, |text| Ok((!text.is_empty()).then(|| text.to_owned())))
}

/// A text that means nothing here, but must not hold a key string even so.
pub(super) fn ignored(fields: &mut Fields<'_>, field: &str, text: &str) {
    fields.read(field, text, |_| Ok(()));
}

pub(super) fn request_id(fields: &mut Fields<'_>, text: &str) -> Option<Option<RequestId>> {
    if text.is_empty() { Some(None) } else { fields.read("request_id", text, str::parse).map(Some) }
}

pub(super) fn note(fields: &mut Fields<'_>, text: &str) -> Option<String> {
    fields.read("note", text, |text| plain_text(text, MAX_NOTE))
}

pub(super) fn ip_blocks(fields: &mut Fields<'_>, field: &str, texts: &[String]) -> Option<Vec<IpBlock>> {
    distinct(fields, field, texts, MAX_BLOCKS, "addresses or blocks", str::parse)
}

pub(super) fn granted_scopes(fields: &mut Fields<'_>, field: &str, texts: &[String]) -> Option<Vec<Scope>> {
    distinct(fields, field, texts, scope::MAX_ON_A_KEY, "scopes", scope::grantable)
}

pub(super) fn required_scopes(fields: &mut Fields<'_>, texts: &[String]) -> Option<Vec<Scope>> {
    // A scope that is required twice is required.
    let mut once: Vec<&String> = Vec::with_capacity(texts.len());
    for text in texts {
        if texts.len() > scope::MAX_REQUIRED || !once.contains(&text) {
            once.push(text);
        }
    }
    distinct(fields, "required_scopes", &once, scope::MAX_REQUIRED, "scopes", Scope::from_str)
}

/// A list of at most `most` different items.
fn distinct<T: PartialEq>(
    fields: &mut Fields<'_>,
    field: &str,
    texts: &[impl AsRef<str>],
    most: usize,
    what: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Option<Vec<T>> {
    if texts.len() > most {
        fields.refuse(field, format!("has {} {what}; at most {most} are possible", texts.len()));
        return None;
    }
    let mut items = Vec::with_capacity(texts.len());
    let mut complete = true;
    for (position, text) in texts.iter().enumerate() {
        match fields.read(format_args!("{field}[{position}]"), text.as_ref(), &parse) {
            Some(item) => match items.iter().position(|(_, other)| *other == item) {
                Some(first) => {
                    let (first, _) = items[first];
                    fields.refuse(format!("{field}[{position}]"), format!("repeats {field}[{first}]; leave it out"));
                    complete = false;
                }
                None => items.push((position, item)),
            },
            None => complete = false,
        }
    }
    complete.then(|| items.into_iter().map(|(_, item)| item).collect())
}

pub(super) fn labels(
    fields: &mut Fields<'_>,
    field: &str,
    labels: &BTreeMap<String, String>,
) -> Option<BTreeMap<String, String>> {
    if labels.len() > MAX_LABELS {
        fields.refuse(field, format!("has {} labels; at most {MAX_LABELS} are possible", labels.len()));
        return None;
    }
    let mut out = BTreeMap::new();
    for (key, value) in labels {
        let key = fields.read(field, key, label_key);
        let path = key.as_ref().map_or_else(|| field.to_owned(), |key| format!("{field}[{key:?}]"));
        if let Some((key, value)) = key.zip(fields.read(path, value, label_value)) {
            out.insert(key, value);
        }
    }
    (out.len() == labels.len()).then_some(out)
}

/// A webhook format; unspecified means the default.
pub(super) fn webhook_format(fields: &mut Fields<'_>, field: &str, number: i32) -> Option<WebhookFormat> {
    match proto::WebhookFormat::try_from(number) {
        Ok(proto::WebhookFormat::Unspecified) => Some(WebhookFormat::default()),
        Ok(proto::WebhookFormat::SingleJson) => Some(WebhookFormat::SingleJson),
        Ok(proto::WebhookFormat::MultipleJson) => Some(WebhookFormat::MultipleJson),
        Err(_) => {
            fields.refuse(
                field,
                format!(
                    "{number} is no webhook format; use WEBHOOK_FORMAT_SINGLE_JSON or WEBHOOK_FORMAT_MULTIPLE_JSON"
                ),
            );
            None
        }
    }
}

pub(super) fn delete_reason(fields: &mut Fields<'_>, number: i32) -> Option<DeleteReason> {
    match proto::DeleteReason::try_from(number) {
        Ok(proto::DeleteReason::Unspecified) => Some(DeleteReason::Unspecified),
        Ok(proto::DeleteReason::Compromised) => Some(DeleteReason::Compromised),
        Ok(proto::DeleteReason::Superseded) => Some(DeleteReason::Superseded),
        Ok(proto::DeleteReason::Unused) => Some(DeleteReason::Unused),
        Ok(proto::DeleteReason::OwnerLeft) => Some(DeleteReason::OwnerLeft),
        Err(_) => {
            fields.refuse("reason", format!("{number} is no reason; use one of the DELETE_REASON values"));
            None
        }
    }
}

pub(super) fn states(fields: &mut Fields<'_>, numbers: &[i32], show_deleted: bool) -> Option<Vec<State>> {
    let mut states = Vec::new();
    let mut complete = true;
    if numbers.len() > 16 {
        fields.refuse("states", format!("has {} states; there are 5 to choose from", numbers.len()));
        return None;
    }
    for (position, number) in numbers.iter().enumerate() {
        let state = match proto::State::try_from(*number) {
            Ok(proto::State::Active) => State::Active,
            Ok(proto::State::Disabled) => State::Disabled,
            Ok(proto::State::NotYetValid) => State::NotYetValid,
            Ok(proto::State::Expired) => State::Expired,
            Ok(proto::State::Deleted) => State::Deleted,
            Ok(proto::State::Unspecified) | Err(_) => {
                let field = format!("states[{position}]");
                fields.refuse(field, format!("{number} is no state; use STATE_ACTIVE or another of the STATE values"));
                complete = false;
                continue;
            }
        };
        if state == State::Deleted && !show_deleted {
            fields.refuse(format!("states[{position}]"), "asks for deleted keys, which need show_deleted");
            complete = false;
        }
        if !states.contains(&state) {
            states.push(state);
        }
    }
    complete.then_some(states)
}

/// A moment that may be absent.
pub(super) fn time(
    fields: &mut Fields<'_>,
    field: &str,
    timestamp: Option<prost_types::Timestamp>,
) -> Option<Option<Time>> {
    let Some(timestamp) = timestamp else { return Some(None) };
    let time = Time::from_timestamp(timestamp.seconds, timestamp.nanos);
    if time.is_none() {
        fields.refuse(field, "lies outside the years 1 to 9999, or its nanos outside 0 to 999,999,999");
    }
    time.map(Some)
}

/// A moment in the future that may be absent.
pub(super) fn future(
    fields: &mut Fields<'_>,
    field: &str,
    timestamp: Option<prost_types::Timestamp>,
    now: Time,
) -> Option<Option<Time>> {
    match time(fields, field, timestamp)? {
        Some(time) if time <= now => {
            fields.refuse(field, IN_THE_PAST);
            None
        }
        time => Some(time),
    }
}

/// A life from now, above zero, as the moment it ends.
pub(super) fn ttl(fields: &mut Fields<'_>, duration: prost_types::Duration, now: Time) -> Option<Expiry> {
    let field = "api_key.ttl";
    let Some(ttl) = span(duration) else {
        fields.refuse(field, "is below zero or no duration; it has to be above zero");
        return None;
    };
    if ttl < Duration::from_micros(1) {
        fields.refuse(field, "is zero; it has to be above zero");
        return None;
    }
    let end = now.checked_add(ttl);
    if end.is_none() {
        fields.refuse(field, "ends after the year 9999; leave it out for a key that never expires");
    }
    end.map(|time| Expiry { time, ttl: Some(ttl) })
}

/// An overlap; absent means none.
pub(super) fn overlap(fields: &mut Fields<'_>, duration: Option<prost_types::Duration>) -> Option<Duration> {
    let Some(duration) = duration else { return Some(Duration::ZERO) };
    let overlap = span(duration).filter(|overlap| *overlap <= MAX_OVERLAP);
    if overlap.is_none() {
        fields.refuse("overlap", "is not between 0 and 30 days (2592000s)");
    }
    overlap
}

/// A duration that is not negative, as protobuf writes it.
fn span(duration: prost_types::Duration) -> Option<Duration> {
    let nanos = u32::try_from(duration.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(u64::try_from(duration.seconds).ok()?, nanos))
}
