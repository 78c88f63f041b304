//! The settings that `create` gives and `update` changes.

use std::collections::BTreeMap;

use clap::Args;
use prost_types::{Duration, Timestamp};

use crate::{
    cli::{
        arguments::{self, Webhook},
        exit::{Exit, Failure},
    },
    grpc::proto::{ApiKey, WebhookFormat},
};

/// Settings of a key.
#[derive(Args, Clone, Debug)]
pub(super) struct SettingsArgs {
    /// Name for people
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,

    /// Address or CIDR block that the key may be used from; repeatable. Without any: from everywhere
    #[arg(long, value_name = "ADDRESS")]
    allow_ip: Vec<String>,

    /// Address or CIDR block that the key may not be used from, even if allowed; repeatable
    #[arg(long, value_name = "ADDRESS")]
    deny_ip: Vec<String>,

    /// How webhooks for this key are written
    #[arg(long, value_name = "FORMAT", value_enum)]
    webhook: Option<Webhook>,

    /// What the key may do, such as `payments:charge`; repeatable
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<String>,

    /// A note of your own; repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = arguments::label)]
    label: Vec<(String, String)>,

    /// Refuse the key before this moment, such as 2027-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = arguments::time)]
    not_before: Option<Timestamp>,

    /// Refuse the key from this moment on
    #[arg(long, value_name = "TIME", value_parser = arguments::time, conflicts_with = "ttl")]
    expires: Option<Timestamp>,

    /// Instead of --expires: refuse the key so long after now, such as 30d
    #[arg(long, value_name = "DURATION", value_parser = arguments::duration)]
    ttl: Option<Duration>,
}

impl SettingsArgs {
    /// The settings on the wire, and the names of those that were given.
    pub(super) fn into_wire(self) -> Result<(ApiKey, Vec<&'static str>), Failure> {
        let mut given = Vec::new();
        let mut note = |is_given: bool, path| {
            if is_given {
                given.push(path);
            }
        };
        note(self.name.is_some(), "display_name");
        note(!self.allow_ip.is_empty(), "allowed_ips");
        note(!self.deny_ip.is_empty(), "denied_ips");
        note(self.webhook.is_some(), "webhook_format");
        note(!self.scope.is_empty(), "scopes");
        note(!self.label.is_empty(), "labels");
        note(self.not_before.is_some(), "not_before_time");
        note(self.expires.is_some(), "expire_time");
        note(self.ttl.is_some(), "ttl");

        let mut labels = BTreeMap::new();
        for (name, value) in self.label {
            if labels.contains_key(&name) {
                return Err(Failure::new(Exit::Usage, format!("--label names `{name}` twice")));
            }
            labels.insert(name, value);
        }
        let api_key = ApiKey {
            display_name: self.name.unwrap_or_default(),
            allowed_ips: self.allow_ip,
            denied_ips: self.deny_ip,
            webhook_format: self.webhook.map_or(WebhookFormat::Unspecified, WebhookFormat::from).into(),
            scopes: self.scope,
            labels,
            not_before_time: self.not_before,
            expire_time: self.expires,
            ttl: self.ttl,
            ..ApiKey::default()
        };
        Ok((api_key, given))
    }
}
