//! From words of the domain to answers on the wire.

use super::proto;
use crate::{
    app::{Answer, LastUse},
    domain::{ApiKey, DeleteReason, State, Time, WebhookFormat},
};

/// Stands in a list for what cannot be read, so that it is not taken for an empty one.
const UNREADABLE: &str = "(unreadable)";

pub(super) fn api_key(key: &ApiKey, now: Time) -> proto::ApiKey {
    let mut out = settled(key, now);
    if let Ok(terms) = &key.terms {
        out.allowed_ips = terms.ip_rules.allowed.iter().map(ToString::to_string).collect();
        out.denied_ips = terms.ip_rules.denied.iter().map(ToString::to_string).collect();
        out.scopes = terms.scopes.iter().map(ToString::to_string).collect();
        out.labels.clone_from(&terms.labels);
        out.webhook_format = webhook_format(terms.webhook_format).into();
    } else {
        out.allowed_ips = vec![UNREADABLE.to_owned()];
        out.denied_ips = vec![UNREADABLE.to_owned()];
        out.scopes = vec![UNREADABLE.to_owned()];
    }
    out
}

/// The part of a key that can always be read.
fn settled(key: &ApiKey, now: Time) -> proto::ApiKey {
    proto::ApiKey {
        id: key.id.to_string(),
        merchant_username: key.merchant.to_string(),
        display_name: key.display_name.clone(),
        masked_key: key.masked_key(),
        state: state(key.state(now)).into(),
        disabled: key.disabled,
        create_time: Some(time(key.create_time)),
        update_time: Some(time(key.update_time)),
        not_before_time: key.not_before_time.map(time),
        expire_time: key.expire_time.map(time),
        rotate_time: key.rotate_time.map(time),
        previous_secret_expire_time: key.previous_secret_expire_time(now).map(time),
        delete_time: key.deletion.map(|deletion| time(deletion.delete_time)),
        purge_time: key.deletion.map(|deletion| time(deletion.purge_time)),
        delete_reason: key.deletion.map_or(proto::DeleteReason::Unspecified, |d| delete_reason(d.reason)).into(),
        etag: key.etag(),
        ..proto::ApiKey::default()
    }
}

/// Adds when `key` was last used.
pub(super) fn with_last_use(mut key: proto::ApiKey, last: Option<&LastUse>) -> proto::ApiKey {
    if let Some(last) = last {
        key.last_used_time = Some(time(last.time));
        key.last_used_ip = last.ip.map(|ip| ip.to_string()).unwrap_or_default();
    }
    key
}

pub(super) fn created(answer: &Answer, last: Option<&LastUse>, now: Time) -> proto::CreateResponse {
    proto::CreateResponse {
        api_key: Some(with_last_use(api_key(&answer.api_key, now), last)),
        key: shown(answer),
        revision: answer.revision.to_string(),
        replayed: answer.replayed,
    }
}

pub(super) fn updated(answer: &Answer, last: Option<&LastUse>, now: Time) -> proto::UpdateResponse {
    proto::UpdateResponse {
        api_key: Some(with_last_use(api_key(&answer.api_key, now), last)),
        revision: answer.revision.to_string(),
        enforced: answer.enforcement.enforced,
        enforce_time: Some(time(answer.enforcement.time)),
    }
}

pub(super) fn deleted(answer: &Answer, last: Option<&LastUse>, now: Time) -> proto::DeleteResponse {
    proto::DeleteResponse {
        api_key: Some(with_last_use(api_key(&answer.api_key, now), last)),
        revision: answer.revision.to_string(),
        enforced: answer.enforcement.enforced,
        enforce_time: Some(time(answer.enforcement.time)),
    }
}

pub(super) fn rotated(answer: &Answer, last: Option<&LastUse>, now: Time) -> proto::RotateResponse {
    proto::RotateResponse {
        api_key: Some(with_last_use(api_key(&answer.api_key, now), last)),
        key: shown(answer),
        revision: answer.revision.to_string(),
        replayed: answer.replayed,
        enforced: answer.enforcement.enforced,
        enforce_time: Some(time(answer.enforcement.time)),
    }
}

/// The one place where a key string leaves the process.
fn shown(answer: &Answer) -> String {
    answer.key.as_ref().map(|key| key.reveal().to_owned()).unwrap_or_default()
}

fn time(time: Time) -> prost_types::Timestamp {
    let (seconds, nanos) = time.to_timestamp();
    prost_types::Timestamp { seconds, nanos }
}

fn state(state: State) -> proto::State {
    match state {
        State::Deleted => proto::State::Deleted,
        State::Disabled => proto::State::Disabled,
        State::NotYetValid => proto::State::NotYetValid,
        State::Expired => proto::State::Expired,
        State::Active => proto::State::Active,
    }
}

pub(super) fn webhook_format(format: WebhookFormat) -> proto::WebhookFormat {
    match format {
        WebhookFormat::SingleJson => proto::WebhookFormat::SingleJson,
        WebhookFormat::MultipleJson => proto::WebhookFormat::MultipleJson,
    }
}

fn delete_reason(reason: DeleteReason) -> proto::DeleteReason {
    match reason {
        DeleteReason::Unspecified => proto::DeleteReason::Unspecified,
        DeleteReason::Compromised => proto::DeleteReason::Compromised,
        DeleteReason::Superseded => proto::DeleteReason::Superseded,
        DeleteReason::Unused => proto::DeleteReason::Unused,
        DeleteReason::OwnerLeft => proto::DeleteReason::OwnerLeft,
    }
}
