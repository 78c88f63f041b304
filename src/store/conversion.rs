//! From rows to keys and credentials, and back.

use std::collections::BTreeMap;

use sea_orm::sea_query::Expr;

use super::{
    Credential,
    rows::{api_key, credential},
};
use crate::domain::{
    ApiKey, CredentialId, DeleteReason, Error, KeyId, Merchant, Result, Time, WebhookFormat,
    api_key::{Deletion, Retiring, Terms},
    error::Poisoned,
    ip_rules::IpRules,
    root_secret::RootId,
};

/// Turns a row into a key. What cannot be read is noted as poisoned in its terms, so that the row can still be listed and
/// deleted; only an id that is none is a fault.
pub(super) fn key_from_row(row: api_key::Model) -> Result<ApiKey> {
    let id = KeyId::from_bytes(bytes(&row.id)?);
    let poisoned = |what| Poisoned { key_id: id, what };
    let mut terms = terms_from_row(&row).map_err(poisoned);
    // What is damaged beside the terms must not hide the key from lists and from Delete, and refuses it like them.
    let mut credential = |stored: &[u8], what| {
        CredentialId::from_bytes(bytes(stored).unwrap_or_else(|_| {
            terms = Err(poisoned(what));
            [0; 16]
        }))
    };
    let current = credential(&row.credential_id, "credential_id");
    let retiring = row.retiring_credential_id.zip(row.retiring_expire_time).map(|(id, end)| Retiring {
        credential_id: credential(&id, "retiring_credential_id"),
        expire_time: Time::from_micros(end),
    });
    let deletion = row.delete_time.map(|delete| Deletion {
        delete_time: Time::from_micros(delete),
        purge_time: row.purge_time.map_or(Time::MAX, Time::from_micros),
        reason: reason_from(row.delete_reason),
    });
    Ok(ApiKey {
        id,
        merchant: Merchant::as_stored(row.merchant_username),
        display_name: row.display_name,
        current,
        prefix: row.prefix,
        retiring,
        terms,
        disabled: row.disabled,
        create_time: Time::from_micros(row.create_time),
        update_time: Time::from_micros(row.update_time),
        not_before_time: row.not_before_time.map(Time::from_micros),
        expire_time: row.expire_time.map(Time::from_micros),
        rotate_time: row.rotate_time.map(Time::from_micros),
        deletion,
        version: row.version,
    })
}

fn terms_from_row(row: &api_key::Model) -> Result<Terms, &'static str> {
    fn list<T: std::str::FromStr>(text: &str, what: &'static str) -> Result<Vec<T>, &'static str> {
        let items: Vec<String> = serde_json::from_str(text).map_err(|_| what)?;
        items.iter().map(|item| item.parse().map_err(|_| what)).collect()
    }
    Ok(Terms {
        ip_rules: IpRules {
            allowed: list(&row.allowed_ips, "allowed_ips")?,
            denied: list(&row.denied_ips, "denied_ips")?,
        },
        scopes: list(&row.scopes, "scopes")?,
        labels: serde_json::from_str::<BTreeMap<String, String>>(&row.labels).map_err(|_| "labels")?,
        webhook_format: match row.webhook_format {
            1 => WebhookFormat::SingleJson,
            2 => WebhookFormat::MultipleJson,
            _ => return Err("webhook_format"),
        },
    })
}

pub(super) fn credential_from_row(row: credential::Model) -> Result<Credential> {
    let root = |text: &str| {
        let mut characters = text.chars();
        characters.next().filter(|_| characters.next().is_none()).and_then(RootId::new)
    };
    let key_id = KeyId::from_bytes(bytes(&row.key_id)?);
    Ok(Credential {
        id: CredentialId::from_bytes(bytes(&row.id)?),
        root: root(&row.root).ok_or(Poisoned { key_id, what: "root" })?,
        profile: row.profile,
        phc: row.phc,
        pepper_root: root(&row.pepper_root),
        create_time: Time::from_micros(row.create_time),
    })
}

pub(super) fn row_from_key(key: &ApiKey) -> Result<api_key::Model> {
    let terms = key.terms.as_ref().map_err(|poisoned| *poisoned)?;
    Ok(api_key::Model {
        id: key.id.as_bytes().to_vec(),
        merchant_username: key.merchant.as_str().to_owned(),
        display_name: key.display_name.clone(),
        credential_id: key.current.as_bytes().to_vec(),
        prefix: key.prefix.clone(),
        retiring_credential_id: key.retiring.map(|retiring| retiring.credential_id.as_bytes().to_vec()),
        retiring_expire_time: key.retiring.map(|retiring| retiring.expire_time.micros()),
        allowed_ips: json(terms.ip_rules.allowed.iter().map(ToString::to_string).collect::<Vec<_>>())?,
        denied_ips: json(terms.ip_rules.denied.iter().map(ToString::to_string).collect::<Vec<_>>())?,
        scopes: json(terms.scopes.iter().map(ToString::to_string).collect::<Vec<_>>())?,
        labels: json(&terms.labels)?,
        full_administrator: key.is_full_administrator(),
        webhook_format: match terms.webhook_format {
            WebhookFormat::SingleJson => 1,
            WebhookFormat::MultipleJson => 2,
        },
        disabled: key.disabled,
        create_time: key.create_time.micros(),
        update_time: key.update_time.micros(),
        not_before_time: key.not_before_time.map(Time::micros),
        expire_time: key.expire_time.map(Time::micros),
        rotate_time: key.rotate_time.map(Time::micros),
        delete_time: key.deletion.map(|deletion| deletion.delete_time.micros()),
        purge_time: key.deletion.map(|deletion| deletion.purge_time.micros()),
        delete_reason: reason_number(key.deletion.map_or(DeleteReason::Unspecified, |deletion| deletion.reason)),
        version: key.version,
    })
}

/// The columns that a change may touch: identity never, terms only if they could be read.
pub(super) fn columns_to_save(key: &ApiKey) -> Result<Vec<(api_key::Column, Expr)>> {
    use api_key::Column as C;
    let readable = key.terms.is_ok();
    let stand_in = ApiKey { terms: Ok(Terms::default()), ..key.clone() };
    let row = row_from_key(if readable { key } else { &stand_in })?;
    let mut columns: Vec<(C, Expr)> = vec![
        (C::DisplayName, Expr::value(row.display_name)),
        (C::Disabled, Expr::value(row.disabled)),
        (C::UpdateTime, Expr::value(row.update_time)),
        (C::NotBeforeTime, Expr::value(row.not_before_time)),
        (C::ExpireTime, Expr::value(row.expire_time)),
        (C::RotateTime, Expr::value(row.rotate_time)),
        (C::DeleteTime, Expr::value(row.delete_time)),
        (C::PurgeTime, Expr::value(row.purge_time)),
        (C::DeleteReason, Expr::value(row.delete_reason)),
        (C::Version, Expr::value(row.version)),
    ];
    // A Rotate writes its credential whatever was there; any other change leaves what it could not read.
    if readable || key.rotate_time == Some(key.update_time) {
        columns.extend([
            (C::CredentialId, Expr::value(row.credential_id)),
            (C::Prefix, Expr::value(row.prefix)),
            (C::RetiringCredentialId, Expr::value(row.retiring_credential_id)),
            (C::RetiringExpireTime, Expr::value(row.retiring_expire_time)),
        ]);
    }
    if readable {
        columns.extend([
            (C::AllowedIps, Expr::value(row.allowed_ips)),
            (C::DeniedIps, Expr::value(row.denied_ips)),
            (C::Scopes, Expr::value(row.scopes)),
            (C::Labels, Expr::value(row.labels)),
            (C::FullAdministrator, Expr::value(row.full_administrator)),
            (C::WebhookFormat, Expr::value(row.webhook_format)),
        ]);
    }
    Ok(columns)
}

/// The stored number of a reason.
pub(super) fn reason_number(reason: DeleteReason) -> i16 {
    match reason {
        DeleteReason::Unspecified => 0,
        DeleteReason::Compromised => 1,
        DeleteReason::Superseded => 2,
        DeleteReason::Unused => 3,
        DeleteReason::OwnerLeft => 4,
    }
}

/// The reason with this stored number. A number that a newer binary wrote is told as no reason.
fn reason_from(number: i16) -> DeleteReason {
    match number {
        1 => DeleteReason::Compromised,
        2 => DeleteReason::Superseded,
        3 => DeleteReason::Unused,
        4 => DeleteReason::OwnerLeft,
        _ => DeleteReason::Unspecified,
    }
}

pub(super) fn root_text(root: Option<RootId>) -> String {
    root.map(|root| root.to_string()).unwrap_or_default()
}

fn json(value: impl serde::Serialize) -> Result<String> {
    serde_json::to_string(&value).map_err(Error::fault)
}

/// A stored id of `N` bytes.
pub(super) fn bytes<const N: usize>(stored: &[u8]) -> Result<[u8; N]> {
    stored.try_into().map_err(|_| Error::fault(format!("a stored id has {} bytes in place of {N}", stored.len())))
}
