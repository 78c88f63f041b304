//! The answers of the service as records, in the names of the proto files.

use super::record::{Choice, Record, Value};
use crate::grpc::proto;

/// Something that the service answers.
pub(crate) trait Answer {
    /// Its fields.
    fn record(&self) -> Record;

    /// The fields of an answer that has all of them, whatever their values.
    fn sample() -> Record;
}

impl Answer for proto::ApiKey {
    fn record(&self) -> Record {
        Record(vec![
            ("id", text(&self.id)),
            ("merchant_username", text(&self.merchant_username)),
            ("display_name", text(&self.display_name)),
            ("masked_key", text(&self.masked_key)),
            ("allowed_ips", Value::List(self.allowed_ips.clone())),
            ("denied_ips", Value::List(self.denied_ips.clone())),
            ("webhook_format", webhook_format(self.webhook_format)),
            ("scopes", Value::List(self.scopes.clone())),
            ("labels", Value::Map(self.labels.clone())),
            ("state", choice(self.state, "STATE_", |n| Some(proto::State::try_from(n).ok()?.as_str_name()))),
            ("disabled", Value::Flag(self.disabled)),
            ("create_time", Value::Moment(self.create_time)),
            ("update_time", Value::Moment(self.update_time)),
            ("not_before_time", Value::Moment(self.not_before_time)),
            ("expire_time", Value::Moment(self.expire_time)),
            ("rotate_time", Value::Moment(self.rotate_time)),
            ("previous_secret_expire_time", Value::Moment(self.previous_secret_expire_time)),
            ("last_used_time", Value::Moment(self.last_used_time)),
            ("last_used_ip", text(&self.last_used_ip)),
            ("delete_time", Value::Moment(self.delete_time)),
            ("purge_time", Value::Moment(self.purge_time)),
            (
                "delete_reason",
                choice(self.delete_reason, "DELETE_REASON_", |n| {
                    Some(proto::DeleteReason::try_from(n).ok()?.as_str_name())
                }),
            ),
            ("etag", text(&self.etag)),
        ])
    }

    fn sample() -> Record {
        Self::default().record()
    }
}

impl Answer for proto::CreateResponse {
    fn record(&self) -> Record {
        Record(vec![
            ("key", text(&self.key)),
            ("api_key", api_key(self.api_key.as_ref())),
            ("revision", text(&self.revision)),
            ("replayed", Value::Flag(self.replayed)),
        ])
    }

    fn sample() -> Record {
        Self { api_key: Some(proto::ApiKey::default()), ..Self::default() }.record()
    }
}

impl Answer for proto::RotateResponse {
    fn record(&self) -> Record {
        Record(vec![
            ("key", text(&self.key)),
            ("api_key", api_key(self.api_key.as_ref())),
            ("revision", text(&self.revision)),
            ("replayed", Value::Flag(self.replayed)),
            ("enforced", Value::Flag(self.enforced)),
            ("enforce_time", Value::Moment(self.enforce_time)),
        ])
    }

    fn sample() -> Record {
        Self { api_key: Some(proto::ApiKey::default()), ..Self::default() }.record()
    }
}

impl Answer for proto::UpdateResponse {
    fn record(&self) -> Record {
        Record(vec![
            ("api_key", api_key(self.api_key.as_ref())),
            ("revision", text(&self.revision)),
            ("enforced", Value::Flag(self.enforced)),
            ("enforce_time", Value::Moment(self.enforce_time)),
        ])
    }

    fn sample() -> Record {
        Self { api_key: Some(proto::ApiKey::default()), ..Self::default() }.record()
    }
}

impl Answer for proto::DeleteResponse {
    fn record(&self) -> Record {
        Record(vec![
            ("api_key", api_key(self.api_key.as_ref())),
            ("revision", text(&self.revision)),
            ("enforced", Value::Flag(self.enforced)),
            ("enforce_time", Value::Moment(self.enforce_time)),
        ])
    }

    fn sample() -> Record {
        Self { api_key: Some(proto::ApiKey::default()), ..Self::default() }.record()
    }
}

impl Answer for proto::ValidateResponse {
    fn record(&self) -> Record {
        Record(vec![
            ("valid", Value::Flag(self.valid)),
            (
                "code",
                choice(self.code, "DECISION_CODE_", |n| Some(proto::DecisionCode::try_from(n).ok()?.as_str_name())),
            ),
            ("key_id", text(&self.key_id)),
            ("missing_scopes", Value::List(self.missing_scopes.clone())),
            ("caller_ip", text(&self.caller_ip)),
            ("principal", Value::Message(self.principal.as_ref().map(principal))),
            ("revision", text(&self.revision)),
        ])
    }

    fn sample() -> Record {
        Self { principal: Some(proto::Principal::default()), ..Self::default() }.record()
    }
}

fn principal(principal: &proto::Principal) -> Record {
    Record(vec![
        ("key_id", text(&principal.key_id)),
        ("merchant_username", text(&principal.merchant_username)),
        ("display_name", text(&principal.display_name)),
        ("scopes", Value::List(principal.scopes.clone())),
        ("labels", Value::Map(principal.labels.clone())),
        ("webhook_format", webhook_format(principal.webhook_format)),
        ("expire_time", Value::Moment(principal.expire_time)),
        ("secret_expire_time", Value::Moment(principal.secret_expire_time)),
    ])
}

fn api_key(api_key: Option<&proto::ApiKey>) -> Value {
    Value::Message(api_key.map(Answer::record))
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn webhook_format(number: i32) -> Value {
    choice(number, "WEBHOOK_FORMAT_", |n| Some(proto::WebhookFormat::try_from(n).ok()?.as_str_name()))
}

fn choice(number: i32, prefix: &str, name: impl Fn(i32) -> Option<&'static str>) -> Value {
    Value::Choice(match name(number) {
        _ if number == 0 => Choice::Unspecified,
        Some(name) => Choice::Known { name, short: name.strip_prefix(prefix).unwrap_or(name) },
        None => Choice::Unknown(number),
    })
}
