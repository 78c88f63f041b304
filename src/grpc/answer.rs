//! The answer of Validate, written as the bytes of its message.
//!
//! A warm call asks for nothing but memory. To make the generated message first, with a dozen texts of its own that are
//! copied from there, was a good part of what it cost (an item of a stream went from 3.6 to 3.1 µs with this and without a
//! future for each), so the fields are written from where they are. What is written here is read back by the generated
//! code in the tests, and by the long way of every call.

use prost::{
    Message as _,
    bytes::BufMut,
    encoding::{encode_varint, encoded_len_varint},
};

use super::{proto, write::webhook_format};
use crate::{
    app::Verdict,
    domain::{
        Error, Result, Time,
        decision::{Decision, Finding, Principal, Refusal},
        ip_rules::CallerIp,
    },
};

/// A message as its fields: each is counted or written, in the order of their numbers, and left out if it is empty.
pub(super) trait Fields {
    /// Hands over each field.
    fn put(&self, out: &mut impl Out);

    /// How many bytes that is.
    fn length(&self) -> usize {
        let mut length = Length(0);
        self.put(&mut length);
        length.0
    }

    /// Writes them.
    fn write(&self, out: &mut impl BufMut) {
        self.put(&mut Bytes(out));
    }
}

/// Takes fields.
pub(super) trait Out {
    fn varint(&mut self, value: u64);
    fn bytes(&mut self, bytes: &[u8]);
    /// A message of this length inside this one, also an empty one.
    fn message_of(&mut self, number: u64, length: usize, message: &impl Fields);

    fn message(&mut self, number: u64, message: &impl Fields) {
        self.message_of(number, message.length(), message);
    }

    fn number(&mut self, number: u64, value: u64) {
        if value != 0 {
            self.varint(number << 3);
            self.varint(value);
        }
    }

    /// One of a list, also an empty one.
    fn item(&mut self, number: u64, text: &str) {
        self.varint(number << 3 | DELIMITED);
        self.varint(text.len() as u64);
        self.bytes(text.as_bytes());
    }

    fn text(&mut self, number: u64, text: &str) {
        if !text.is_empty() {
            self.item(number, text);
        }
    }
}

/// The wire type of texts and messages, behind their length.
const DELIMITED: u64 = 2;

/// Counts.
struct Length(usize);

impl Out for Length {
    fn varint(&mut self, value: u64) {
        self.0 += encoded_len_varint(value);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }

    fn message_of(&mut self, number: u64, length: usize, _message: &impl Fields) {
        self.varint(number << 3 | DELIMITED);
        self.varint(length as u64);
        self.0 += length;
    }
}

/// Writes.
struct Bytes<'a, B>(&'a mut B);

impl<B: BufMut> Out for Bytes<'_, B> {
    fn varint(&mut self, value: u64) {
        encode_varint(value, self.0);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.put_slice(bytes);
    }

    fn message_of(&mut self, number: u64, length: usize, message: &impl Fields) {
        self.varint(number << 3 | DELIMITED);
        self.varint(length as u64);
        message.put(self);
    }
}

/// The message `ValidateResponse`.
pub(super) struct Answer {
    verdict: Verdict,
    caller_ip: String,
    /// Of the principal, if there is one: it is asked for twice.
    principal_length: usize,
}

impl Answer {
    /// The verdict on a key used from `caller_ip`.
    pub(super) fn new(verdict: Verdict, caller_ip: Option<CallerIp>) -> Self {
        let caller_ip = caller_ip.map(|ip| ip.to_string()).unwrap_or_default();
        let principal_length = match &verdict.decision {
            Decision::Valid(principal) => principal.length(),
            Decision::Refused(_) => 0,
        };
        Self { verdict, caller_ip, principal_length }
    }

    /// The same as the generated code has it.
    ///
    /// # Errors
    /// None, unless what is written here were no such message.
    pub(super) fn into_message(self) -> Result<proto::ValidateResponse> {
        let mut bytes = Vec::with_capacity(self.length());
        self.write(&mut bytes);
        proto::ValidateResponse::decode(&*bytes).map_err(Error::fault)
    }
}

impl Fields for Answer {
    fn put(&self, out: &mut impl Out) {
        match &self.verdict.decision {
            Decision::Valid(principal) => {
                out.number(1, 1);
                out.number(2, number(proto::DecisionCode::Valid.into()));
                out.message_of(3, self.principal_length, principal);
                out.text(4, principal.pass.id_text());
            }
            Decision::Refused(refusal) => {
                let (code, key_id, missing) = match refusal {
                    Refusal::Malformed => (proto::DecisionCode::Malformed, None, &[][..]),
                    Refusal::NotFound => (proto::DecisionCode::NotFound, None, &[][..]),
                    Refusal::Proved(key_id, Finding::ScopeNotGranted(missing)) => {
                        (proto::DecisionCode::ScopeNotGranted, Some(key_id), &missing[..])
                    }
                    Refusal::Proved(key_id, finding) => (found(finding), Some(key_id), &[][..]),
                };
                out.number(2, number(code.into()));
                out.text(4, &key_id.map(ToString::to_string).unwrap_or_default());
                for scope in missing {
                    out.item(5, scope.as_str());
                }
            }
        }
        out.text(6, &self.caller_ip);
        out.text(7, self.verdict.revision.as_ref().map_or("", |revision| revision.as_str()));
    }
}

fn found(finding: &Finding) -> proto::DecisionCode {
    match finding {
        Finding::Deleted => proto::DecisionCode::Deleted,
        Finding::SecretRetired => proto::DecisionCode::SecretRetired,
        Finding::Disabled => proto::DecisionCode::Disabled,
        Finding::NotYetValid => proto::DecisionCode::NotYetValid,
        Finding::Expired => proto::DecisionCode::Expired,
        Finding::CallerIpRequired => proto::DecisionCode::CallerIpRequired,
        Finding::IpNotAllowed => proto::DecisionCode::IpNotAllowed,
        Finding::ScopeNotGranted(_) => proto::DecisionCode::ScopeNotGranted,
    }
}

/// The message `Principal`.
impl Fields for Principal {
    fn put(&self, out: &mut impl Out) {
        let Self { pass, secret_expire_time } = self;
        let mut texts = pass.texts();
        out.text(1, texts.next().unwrap_or_default());
        out.text(2, texts.next().unwrap_or_default());
        out.text(3, texts.next().unwrap_or_default());
        for scope in pass.scopes() {
            out.item(4, scope);
        }
        while let (Some(key), Some(value)) = (texts.next(), texts.next()) {
            out.message(5, &(key, value));
        }
        out.number(6, number(webhook_format(pass.webhook_format()).into()));
        if let Some(time) = pass.expire_time() {
            out.message(7, &time);
        }
        if let Some(time) = secret_expire_time {
            out.message(8, time);
        }
    }
}

/// An entry of a map.
impl Fields for (&str, &str) {
    fn put(&self, out: &mut impl Out) {
        out.text(1, self.0);
        out.text(2, self.1);
    }
}

/// The message `google.protobuf.Timestamp`.
impl Fields for Time {
    fn put(&self, out: &mut impl Out) {
        let (seconds, nanos) = self.to_timestamp();
        out.number(1, seconds.cast_unsigned());
        out.number(2, number(nanos));
    }
}

/// The message `google.rpc.Status`.
impl Fields for tonic_types::Status {
    fn put(&self, out: &mut impl Out) {
        out.bytes(&self.encode_to_vec());
    }
}

/// The value of an enum, or a number, as it is written: with its sign in 64 bits.
fn number(value: i32) -> u64 {
    i64::from(value).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        app::Revision,
        domain::{
            ApiKey, KeyId, WebhookFormat,
            api_key::{Terms, tests::example},
            pass::Pass,
        },
    };

    fn read_back(decision: Decision, revision: Option<Revision>, ip: Option<&str>) -> proto::ValidateResponse {
        let answer = Answer::new(Verdict { decision, revision }, ip.map(|ip| ip.parse().unwrap()));
        let mut bytes = Vec::new();
        answer.write(&mut bytes);
        assert_eq!(bytes.len(), answer.length());
        let message = answer.into_message().unwrap();
        // Also in the order and the spelling of the generated code.
        assert_eq!(message.encode_to_vec(), bytes);
        message
    }

    #[test]
    fn the_generated_code_reads_what_is_written_for_every_decision() {
        let terms = Terms {
            scopes: vec!["charge:create".parse().unwrap(), "refund".parse().unwrap()],
            webhook_format: WebhookFormat::MultipleJson,
            labels: [("empty", ""), ("shop", "ß7")].map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            ..example().terms.unwrap()
        };
        let expire_time = Some(Time::from_micros(-1));
        let key = ApiKey { display_name: "💳".repeat(63), terms: Ok(terms), expire_time, ..example() };
        let pass = Arc::new(Pass::of(&key));
        let principal = Principal { pass, secret_expire_time: Some(Time::from_micros(1_700_000_000_000_001)) };
        let told = read_back(Decision::Valid(principal), Some(Revision::new("epoch", 7)), Some("2001:db8::1"));
        assert!(told.valid && told.code == i32::from(proto::DecisionCode::Valid));
        assert_eq!((told.caller_ip.as_str(), told.revision.as_str()), ("2001:db8::1", "epoch.7"));
        assert_eq!(told.key_id, key.id.to_string());
        let principal = told.principal.unwrap();
        assert_eq!(principal.key_id, key.id.to_string());
        assert_eq!(
            (principal.merchant_username.as_str(), principal.display_name),
            (key.merchant.as_str(), key.display_name)
        );
        assert_eq!(principal.scopes, ["charge:create", "refund"]);
        assert_eq!(
            principal.labels.into_iter().collect::<Vec<_>>(),
            [("empty".to_owned(), String::new()), ("shop".to_owned(), "ß7".to_owned())]
        );
        assert_eq!(principal.webhook_format, i32::from(proto::WebhookFormat::MultipleJson));
        assert_eq!(principal.expire_time, Some(prost_types::Timestamp { seconds: -1, nanos: 999_999_000 }));
        assert_eq!(principal.secret_expire_time, Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 1_000 }));
    }

    #[test]
    fn refusals_say_why_and_no_more() {
        let key_id = KeyId::from_bytes([7; 16]);
        let told = read_back(Decision::Refused(Refusal::Malformed), None, None);
        assert_eq!(
            told,
            proto::ValidateResponse {
                code: proto::DecisionCode::Malformed.into(),
                ..proto::ValidateResponse::default()
            }
        );
        let missing = Finding::ScopeNotGranted(vec!["a".parse().unwrap(), "b".parse().unwrap()]);
        let told = read_back(Decision::Refused(Refusal::Proved(key_id, missing)), Some(Revision::new("e", 0)), None);
        assert_eq!(
            told,
            proto::ValidateResponse {
                code: proto::DecisionCode::ScopeNotGranted.into(),
                key_id: key_id.to_string(),
                missing_scopes: vec!["a".to_owned(), "b".to_owned()],
                revision: "e.0".to_owned(),
                ..proto::ValidateResponse::default()
            }
        );
        let told = read_back(Decision::Refused(Refusal::Proved(key_id, Finding::Deleted)), None, Some("192.0.2.1"));
        assert_eq!((told.code, told.caller_ip.as_str()), (proto::DecisionCode::Deleted.into(), "192.0.2.1"));
        assert_eq!(told.key_id, key_id.to_string());
    }
}
