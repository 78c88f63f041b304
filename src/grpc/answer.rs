//! The answer of Validate, written as the bytes of its message.
//!
//! A warm call asks for nothing but memory. To make the generated message first, with a dozen texts of its own that are
//! copied from there, would cost it more than the decision does (FIGURE), so the fields are written from where they are. What
//! is written here is read back by the generated code in the tests, and by the long way of every call.

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
    /// A message inside this one, also an empty one.
    fn message(&mut self, number: u64, message: &impl Fields);

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

    fn message(&mut self, number: u64, message: &impl Fields) {
        let length = message.length();
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

    fn message(&mut self, number: u64, message: &impl Fields) {
        self.varint(number << 3 | DELIMITED);
        self.varint(message.length() as u64);
        message.put(self);
    }
}

/// The message `ValidateResponse`.
pub(super) struct Answer {
    verdict: Verdict,
    caller_ip: String,
}

impl Answer {
    /// The verdict on a key used from `caller_ip`.
    pub(super) fn new(verdict: Verdict, caller_ip: Option<CallerIp>) -> Self {
        Self { verdict, caller_ip: caller_ip.map(|ip| ip.to_string()).unwrap_or_default() }
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
                out.message(3, principal);
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
                missing.iter().for_each(|scope| out.item(5, scope.as_str()));
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
        out.text(1, pass.id_text());
        out.text(2, pass.merchant());
        out.text(3, pass.display_name());
        pass.scopes().for_each(|scope| out.item(4, scope));
        pass.labels().for_each(|label| out.message(5, &label));
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
