//! From requests of the wire to words of the domain. All that is wrong with a request is told at once.

use prost::Message;
use prost_types::FieldMask;

use super::{proto, read_fields as read};
use crate::{
    app::{Expiry, ListFilter, ListQuery, NewKey, Patch, Patience, Revision, Revocation, Rotation, Target},
    domain::{
        Caller, KeyId, Merchant, Result, Scope, Time, api_key,
        error::Violation,
        fields::Fields,
        ip_rules::{CallerIp, IpRules},
        key_string::KeyFormat,
        text::quoted,
    },
};

/// What [`proto::GetRequest`] may say in place of the caller's own id.
const SELF: &str = "self";

/// Paths that an update mask may name.
const UPDATABLE: [&str; 11] = [
    "display_name",
    "allowed_ips",
    "denied_ips",
    "webhook_format",
    "scopes",
    "labels",
    "disabled",
    "not_before_time",
    "expire_time",
    "ttl",
    "previous_secret_expire_time",
];

const DEFAULT_PAGE: u32 = 50;
const MAX_PAGE: u32 = 1_000;

pub(super) fn create(format: &KeyFormat, now: Time, request: proto::CreateRequest) -> Result<NewKey> {
    let mut fields = Fields::new(format);
    let encoded = request.encode_to_vec();
    let key = request.api_key.unwrap_or_default();
    ignored_texts(&mut fields, &key);
    read::ignored(&mut fields, "api_key.id", &key.id);
    let merchant = read::merchant(&mut fields, "api_key.merchant_username", &key.merchant_username);
    let display_name = fields.read("api_key.display_name", &key.display_name, api_key::display_name);
    let allowed = read::ip_blocks(&mut fields, "api_key.allowed_ips", &key.allowed_ips);
    let denied = read::ip_blocks(&mut fields, "api_key.denied_ips", &key.denied_ips);
    let webhook_format = read::webhook_format(&mut fields, "api_key.webhook_format", key.webhook_format);
    let scopes = read::granted_scopes(&mut fields, "api_key.scopes", &key.scopes);
    let labels = read::labels(&mut fields, "api_key.labels", &key.labels);
    let not_before_time = read::time(&mut fields, "api_key.not_before_time", key.not_before_time);
    let mut overdue = Vec::new();
    let expiry = expiry(&mut fields, &mut overdue, &key, now);
    if let (Some(Some(begin)), Some(Some(expiry))) = (not_before_time, expiry)
        && expiry.time <= begin
    {
        let field = if expiry.ttl.is_some() { "api_key.ttl" } else { "api_key.expire_time" };
        fields.refuse(field, "ends the key at or before its not_before_time; it has to begin before it ends");
    }
    if key.previous_secret_expire_time.is_some() {
        fields
            .refuse("api_key.previous_secret_expire_time", "makes no sense on a new key, which has no previous secret");
    }
    let request_id = read::request_id(&mut fields, &request.request_id);
    let new = || {
        Some(NewKey {
            merchant: merchant?,
            display_name: display_name?,
            ip_rules: IpRules { allowed: allowed?, denied: denied? },
            webhook_format: webhook_format?,
            scopes: scopes?,
            labels: labels?,
            disabled: key.disabled,
            not_before_time: not_before_time?,
            expiry: expiry?,
            request_id: request_id?,
            overdue: overdue.clone(),
        })
    };
    let new = new();
    // A retry of a request that was right at its time gets its answer again; everything else is told at once.
    if fields.has_violations() || new.as_ref().is_none_or(|new| new.request_id.is_none()) {
        fields.extend(overdue);
    }
    fields.screen(&encoded);
    fields.finish(new)
}

/// When a key is to end, by `expire_time` or by `ttl`. That it would have ended already is noted in `overdue`.
fn expiry(
    fields: &mut Fields<'_>,
    overdue: &mut Vec<Violation>,
    key: &proto::ApiKey,
    now: Time,
) -> Option<Option<Expiry>> {
    if key.expire_time.is_some() && key.ttl.is_some() {
        fields.refuse("api_key.ttl", "is given beside expire_time; give one of them");
        return None;
    }
    if let Some(duration) = key.ttl {
        return read::ttl(fields, duration, now).map(Some);
    }
    let time = read::time(fields, "api_key.expire_time", key.expire_time)?;
    if time.is_some_and(|time| time <= now) {
        overdue.push(Violation { field: "api_key.expire_time".to_owned(), description: read::IN_THE_PAST.to_owned() });
    }
    Some(time.map(|time| Expiry { time, ttl: None }))
}

/// Output-only texts of a key in a request are ignored, but a key string in them is refused all the same.
fn ignored_texts(fields: &mut Fields<'_>, key: &proto::ApiKey) {
    read::ignored(fields, "api_key.masked_key", &key.masked_key);
    read::ignored(fields, "api_key.etag", &key.etag);
}

/// The texts of settings that an update does not name.
fn unnamed_texts(fields: &mut Fields<'_>, key: &proto::ApiKey, named: impl Fn(&str) -> bool) {
    if !named("display_name") {
        read::ignored(fields, "api_key.display_name", &key.display_name);
    }
    for (name, texts) in [("allowed_ips", &key.allowed_ips), ("denied_ips", &key.denied_ips), ("scopes", &key.scopes)] {
        for text in texts.iter().filter(|_| !named(name)) {
            read::ignored(fields, &format!("api_key.{name}"), text);
        }
    }
    for text in key.labels.iter().flat_map(|(key, value)| [key, value]).filter(|_| !named("labels")) {
        read::ignored(fields, "api_key.labels", text);
    }
}

/// The id that a Get asks for; none if it cannot be read.
pub(super) fn wanted_id(caller: &Caller, id: &str) -> Option<KeyId> {
    if id == SELF { Some(caller.key_id()) } else { id.parse().ok() }
}

pub(super) fn get(
    format: &KeyFormat,
    caller: &Caller,
    request: &proto::GetRequest,
) -> Result<(KeyId, Option<Merchant>)> {
    let mut fields = Fields::new(format);
    let id = fields.read("id", &request.id, |text| if text == SELF { Ok(caller.key_id()) } else { text.parse() });
    let merchant = read::merchant(&mut fields, "merchant_username", &request.merchant_username);
    fields.screen(&request.encode_to_vec());
    fields.finish(id.zip(merchant))
}

pub(super) fn list(format: &KeyFormat, request: &proto::ListRequest) -> Result<ListQuery> {
    let mut fields = Fields::new(format);
    let merchant = read::merchant(&mut fields, "merchant_username", &request.merchant_username);
    let states = read::states(&mut fields, &request.states, request.show_deleted);
    let page_size = match u32::try_from(request.page_size) {
        Ok(0) => Some(DEFAULT_PAGE),
        Ok(size) => Some(size.min(MAX_PAGE)),
        Err(_) => {
            fields.refuse("page_size", "is below 0; use 0 for 50, or 1 to 1000");
            None
        }
    };
    let page_token =
        fields.read("page_token", &request.page_token, |text| Ok((!text.is_empty()).then(|| text.to_owned())));
    let query = || {
        Some(ListQuery {
            merchant: merchant?,
            filter: ListFilter { states: states?, show_deleted: request.show_deleted },
            page_size: page_size?,
            page_token: page_token?,
        })
    };
    let query = query();
    fields.screen(&request.encode_to_vec());
    fields.finish(query)
}

pub(super) fn update(format: &KeyFormat, now: Time, request: proto::UpdateRequest) -> Result<(Target, Patch)> {
    let mut fields = Fields::new(format);
    let encoded = request.encode_to_vec();
    let key = request.api_key.unwrap_or_default();
    let id = read::key_id(&mut fields, "api_key.id", &key.id);
    let merchant = read::merchant(&mut fields, "api_key.merchant_username", &key.merchant_username);
    let etag = read::etag(&mut fields, "api_key.etag", &key.etag);
    read::ignored(&mut fields, "api_key.masked_key", &key.masked_key);
    let mask = mask(&mut fields, request.update_mask);
    let named = |name: &str| mask.iter().any(|path| path == name);
    unnamed_texts(&mut fields, &key, named);
    if named("expire_time") && named("ttl") {
        fields.refuse("update_mask", "names expire_time and ttl; name one of them");
    }
    let mut patch = Patch::default();
    for path in &mask {
        match path.as_str() {
            "display_name" => {
                patch.display_name = fields.read("api_key.display_name", &key.display_name, api_key::display_name);
            }
            "allowed_ips" => {
                patch.allowed_ips = read::ip_blocks(&mut fields, "api_key.allowed_ips", &key.allowed_ips);
            }
            "denied_ips" => patch.denied_ips = read::ip_blocks(&mut fields, "api_key.denied_ips", &key.denied_ips),
            "webhook_format" => {
                patch.webhook_format = read::webhook_format(&mut fields, "api_key.webhook_format", key.webhook_format);
            }
            "scopes" => patch.scopes = read::granted_scopes(&mut fields, "api_key.scopes", &key.scopes),
            "labels" => patch.labels = read::labels(&mut fields, "api_key.labels", &key.labels),
            "disabled" => patch.disabled = Some(key.disabled),
            "not_before_time" => {
                patch.not_before_time = read::time(&mut fields, "api_key.not_before_time", key.not_before_time);
            }
            "expire_time" => {
                let time = read::future(&mut fields, "api_key.expire_time", key.expire_time, now);
                patch.expire_time = time.map(|time| (time, "api_key.expire_time"));
            }
            "ttl" => match key.ttl {
                Some(ttl) => {
                    let expiry = read::ttl(&mut fields, ttl, now);
                    patch.expire_time = expiry.map(|expiry| (Some(expiry.time), "api_key.ttl"));
                }
                None => fields.refuse(
                    "api_key.ttl",
                    "is named in update_mask and empty; name expire_time instead for a key that never expires",
                ),
            },
            "previous_secret_expire_time" => {
                let field = "api_key.previous_secret_expire_time";
                patch.previous_secret_expire_time =
                    read::future(&mut fields, field, key.previous_secret_expire_time, now);
            }
            // `mask` lets no other path through.
            _ => {}
        }
    }
    let target = || Some((Target { id: id?, merchant: merchant?, etag: etag? }, patch));
    let target = target();
    fields.screen(&encoded);
    fields.finish(target)
}

/// The paths of a mask that can be updated; the others are noted as wrong.
fn mask(fields: &mut Fields<'_>, mask: Option<FieldMask>) -> Vec<String> {
    let paths = mask.unwrap_or_default().paths;
    if paths.is_empty() {
        fields.refuse("update_mask", format!("is empty; name the fields to change, of {}", UPDATABLE.join(", ")));
    }
    if paths.len() > 64 {
        fields
            .refuse("update_mask", format!("has {} paths; there are {} to choose from", paths.len(), UPDATABLE.len()));
        return Vec::new();
    }
    let read = paths.iter().enumerate().filter_map(|(position, path)| {
        fields.read(format!("update_mask.paths[{position}]"), path, |path| match path {
            path if UPDATABLE.contains(&path) => Ok(path.to_owned()),
            "*" => Err("`*` would clear fields that the caller does not know of; name each field".to_owned()),
            other => Err(format!("{} cannot be updated; there are {}", quoted(other), UPDATABLE.join(", "))),
        })
    });
    let mut mask: Vec<String> = read.collect();
    mask.sort_unstable();
    mask.dedup();
    mask
}

pub(super) fn delete(format: &KeyFormat, request: &proto::DeleteRequest, patience: Patience) -> Result<Revocation> {
    let mut fields = Fields::new(format);
    let target = target(&mut fields, &request.id, &request.merchant_username, &request.etag);
    let reason = read::delete_reason(&mut fields, request.reason);
    let note = read::note(&mut fields, &request.note);
    let revocation = || Some(Revocation { target: target?, reason: reason?, note: note?, patience });
    let revocation = revocation();
    fields.screen(&request.encode_to_vec());
    fields.finish(revocation)
}

pub(super) fn rotate(format: &KeyFormat, request: &proto::RotateRequest, patience: Patience) -> Result<Rotation> {
    let mut fields = Fields::new(format);
    let target = target(&mut fields, &request.id, &request.merchant_username, &request.etag);
    let overlap = read::overlap(&mut fields, request.overlap);
    let request_id = read::request_id(&mut fields, &request.request_id);
    let rotation = || Some(Rotation { target: target?, overlap: overlap?, request_id: request_id?, patience });
    let rotation = rotation();
    fields.screen(&request.encode_to_vec());
    fields.finish(rotation)
}

fn target(fields: &mut Fields<'_>, id: &str, merchant: &str, etag: &str) -> Option<Target> {
    let id = read::key_id(fields, "id", id);
    let merchant = read::merchant(fields, "merchant_username", merchant);
    let etag = read::etag(fields, "etag", etag);
    Some(Target { id: id?, merchant: merchant?, etag: etag? })
}

/// Everything of a Validate but the key itself, whose wrong form is a decision and no error.
pub(super) struct Validation {
    pub(super) caller_ip: Option<CallerIp>,
    pub(super) required_scopes: Vec<Scope>,
    pub(super) min_revision: Option<Revision>,
}

pub(super) fn validate(format: &KeyFormat, request: &proto::ValidateRequest) -> Result<Validation> {
    let mut fields = Fields::new(format);
    let caller_ip = match request.caller_ip.as_str() {
        "" => Some(None),
        text => fields.read("caller_ip", text, str::parse).map(Some),
    };
    let required_scopes = read::required_scopes(&mut fields, &request.required_scopes);
    let min_revision = match request.min_revision.as_str() {
        "" => Some(None),
        text => fields.read("min_revision", text, str::parse).map(Some),
    };
    let validation =
        || Some(Validation { caller_ip: caller_ip?, required_scopes: required_scopes?, min_revision: min_revision? });
    let validation = validation();
    fields.finish(validation)
}
