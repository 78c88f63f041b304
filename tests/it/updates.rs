//! Update: what a mask can name, what named and empty means, and when nothing is written. Times are in `update_times`.

use std::{collections::BTreeMap, time::Duration};

use claviger::grpc::proto;
use prost_types::{FieldMask, Timestamp};
use tonic::Status;

use crate::{
    calls::{self, delete, get, refusal, refused_for, update},
    harness::{Engine, Made, Service, after_beginning, key_of, violations},
};

/// How a message tells what can be updated.
const THE_FIELDS: &str = "display_name, allowed_ips, denied_ips, webhook_format, scopes, labels, disabled, \
                          not_before_time, expire_time, ttl, previous_secret_expire_time";

/// A key with every setting that there is.
fn full() -> proto::ApiKey {
    proto::ApiKey {
        display_name: "till 7".into(),
        allowed_ips: vec!["192.0.2.0/24".into()],
        denied_ips: vec!["192.0.2.9".into()],
        webhook_format: proto::WebhookFormat::MultipleJson.into(),
        labels: BTreeMap::from([("env".into(), "live".into())]),
        disabled: true,
        not_before_time: Some(after_beginning(Duration::from_secs(100))),
        expire_time: Some(after_beginning(Duration::from_secs(200))),
        ..key_of("acme", &["payments:read"])
    }
}

/// What is told about the wrong fields of an update that changes nothing.
pub async fn refused(service: &Service, made: &Made, mask: &[&str], settings: proto::ApiKey) -> String {
    let before = calls::head(service).await;
    let told = violations(&update(service.admin(), &made.id, mask, settings).await.unwrap_err());
    assert_eq!(calls::head(service).await, before);
    told
}

on_every_engine! {
    async fn case_33_a_mask_names_fields_that_can_be_updated_and_no_others(service: Service) {
        let made = service.make(full()).await;
        let paths = [
            "*",
            "",
            "id",
            "merchant_username",
            "masked_key",
            "state",
            "create_time",
            "update_time",
            "rotate_time",
            "delete_time",
            "purge_time",
            "delete_reason",
            "etag",
            "last_used_time",
            "labels.env",
            "allowed_ips[0]",
            "api_key.labels",
            "Labels",
            "display_name ",
            "no_such_field\n",
        ];
        let mut told = vec![];
        for paths in paths.chunks(10) {
            told.push(refused(&service, &made, paths, made.api_key.clone()).await.replace(THE_FIELDS, "(the fields)"));
        }
        insta::assert_snapshot!(told.join("\n"), @r"
        update_mask.paths[0]: `*` would clear fields that the caller does not know of; name each field
        update_mask.paths[1]: `` cannot be updated; there are (the fields)
        update_mask.paths[2]: `id` cannot be updated; there are (the fields)
        update_mask.paths[3]: `merchant_username` cannot be updated; there are (the fields)
        update_mask.paths[4]: `masked_key` cannot be updated; there are (the fields)
        update_mask.paths[5]: `state` cannot be updated; there are (the fields)
        update_mask.paths[6]: `create_time` cannot be updated; there are (the fields)
        update_mask.paths[7]: `update_time` cannot be updated; there are (the fields)
        update_mask.paths[8]: `rotate_time` cannot be updated; there are (the fields)
        update_mask.paths[9]: `delete_time` cannot be updated; there are (the fields)
        update_mask.paths[0]: `purge_time` cannot be updated; there are (the fields)
        update_mask.paths[1]: `delete_reason` cannot be updated; there are (the fields)
        update_mask.paths[2]: `etag` cannot be updated; there are (the fields)
        update_mask.paths[3]: `last_used_time` cannot be updated; there are (the fields)
        update_mask.paths[4]: `labels.env` cannot be updated; there are (the fields)
        update_mask.paths[5]: `allowed_ips[0]` cannot be updated; there are (the fields)
        update_mask.paths[6]: `api_key.labels` cannot be updated; there are (the fields)
        update_mask.paths[7]: `Labels` cannot be updated; there are (the fields)
        update_mask.paths[8]: `display_name ` cannot be updated; there are (the fields)
        update_mask.paths[9]: `no_such_field\u{a}` cannot be updated; there are (the fields)
        ");
        for path in paths {
            // Even when it is what the key has already.
            let outcome = update(service.admin(), &made.id, &["labels", path], made.api_key.clone()).await;
            assert_eq!(refused_for(outcome), "FIELDS_INVALID", "{path:?}");
        }
        insta::assert_snapshot!(refused(&service, &made, &[], made.api_key.clone()).await, @"update_mask: is empty; name the fields to change, of display_name, allowed_ips, denied_ips, webhook_format, scopes, labels, disabled, not_before_time, expire_time, ttl, previous_secret_expire_time");
        let api_key = Some(made.api_key.clone());
        let without_mask = proto::UpdateRequest { api_key, update_mask: None, ..Default::default() };
        let told = violations(&service.admin().update(without_mask).await.unwrap_err());
        insta::assert_snapshot!(told.replace(THE_FIELDS, "(the fields)"), @"update_mask: is empty; name the fields to change, of (the fields)");
        let update_mask = Some(FieldMask { paths: vec!["labels".into()] });
        let without_key = proto::UpdateRequest { api_key: None, update_mask, ..Default::default() };
        insta::assert_snapshot!(violations(&service.admin().update(without_key).await.unwrap_err()), @"api_key.id: is empty; name a key, `key_` and 22 characters of 0-9A-Za-z");
        assert_eq!(get(service.admin(), &made.id).await.unwrap(), made.api_key);
    }
}

on_every_engine! {
    async fn what_is_named_and_empty_is_cleared_and_what_is_not_named_stays(service: Service) {
        let made = service.make(full()).await;
        let cleared = |field: &str, key: proto::ApiKey| match field {
            "display_name" => proto::ApiKey { display_name: String::new(), ..key },
            "allowed_ips" => proto::ApiKey { allowed_ips: vec![], ..key },
            "denied_ips" => proto::ApiKey { denied_ips: vec![], ..key },
            "webhook_format" => proto::ApiKey { webhook_format: proto::WebhookFormat::SingleJson.into(), ..key },
            "scopes" => proto::ApiKey { scopes: vec![], ..key },
            "labels" => proto::ApiKey { labels: BTreeMap::new(), ..key },
            "expire_time" => proto::ApiKey { expire_time: None, ..key },
            "not_before_time" => proto::ApiKey { not_before_time: None, ..key },
            "disabled" => {
                // The last field of the list: there is no beginning any longer that has not come.
                proto::ApiKey { disabled: false, state: proto::State::Active.into(), ..key }
            }
            other => panic!("{other}"),
        };
        let mut expected = made.api_key.clone();
        for field in [
            "display_name",
            "allowed_ips",
            "denied_ips",
            "webhook_format",
            "scopes",
            "labels",
            "expire_time",
            "not_before_time",
            "disabled",
        ] {
            service.clock.advance(Duration::from_millis(1));
            let updated = update(service.admin(), &made.id, &[field], proto::ApiKey::default()).await.unwrap();
            assert_ne!(updated.etag, expected.etag, "{field}");
            assert!(updated.update_time.unwrap().nanos > expected.update_time.unwrap().nanos, "{field}");
            expected = proto::ApiKey {
                etag: updated.etag.clone(),
                update_time: updated.update_time,
                ..cleared(field, expected)
            };
            assert_eq!(updated, expected, "{field}");
            assert_eq!(get(service.admin(), &made.id).await.unwrap(), expected, "{field}");
        }
    }
}

on_every_engine! {
    async fn an_update_without_a_change_keeps_the_etag_and_writes_nothing(service: Service) {
        let made = service.make(full()).await;
        let before = calls::head(&service).await;
        service.clock.advance(Duration::from_secs(1));
        let all = [
            "display_name",
            "allowed_ips",
            "denied_ips",
            "webhook_format",
            "scopes",
            "labels",
            "disabled",
            "not_before_time",
            "expire_time",
            "previous_secret_expire_time",
        ];
        let same = update(service.admin(), &made.id, &all, made.api_key.clone()).await.unwrap();
        assert_eq!(same, made.api_key);
        // Another spelling of the same, and the same path twice.
        let spelled = proto::ApiKey { denied_ips: vec!["192.0.2.9/32".into()], ..proto::ApiKey::default() };
        let same = update(service.admin(), &made.id, &["denied_ips", "denied_ips"], spelled).await.unwrap();
        assert_eq!(same, made.api_key);
        assert_eq!(calls::head(&service).await, before);
        assert_eq!(get(service.admin(), &made.id).await.unwrap(), made.api_key);
    }
}

on_every_engine! {
    async fn a_stale_etag_is_aborted_before_anything_is_changed(service: Service) {
        let made = service.make_for("acme", &[]).await;
        let named = |name: &str, etag: &str| proto::ApiKey {
            display_name: name.into(),
            etag: etag.into(),
            ..Default::default()
        };
        let first = update(service.admin(), &made.id, &["display_name"], named("a", &made.api_key.etag)).await.unwrap();
        for stale in [made.api_key.etag.as_str(), "1", "\"\"", "W/\"2\"", "*"] {
            let outcome = update(service.admin(), &made.id, &["display_name"], named("a", stale)).await;
            assert_eq!(refused_for(outcome), "ETAG_MISMATCH", "{stale}");
        }
        let outcome = update(service.admin(), &made.id, &["display_name"], named("b", "\"1\"")).await;
        insta::assert_snapshot!(refusal(outcome), @"Aborted ETAG_MISMATCH: the key was changed since this etag was read; Get it again and decide anew");
        assert_eq!(get(service.admin(), &made.id).await.unwrap(), first);
    }
}

on_every_engine! {
    async fn a_deleted_key_cannot_be_updated_not_even_to_what_it_is(service: Service) {
        let made = service.make_for("acme", &[]).await;
        delete(service.admin(), &made.id).await.unwrap();
        let outcome = update(service.admin(), &made.id, &["labels"], proto::ApiKey::default()).await;
        insta::assert_snapshot!(refusal(outcome), @"FailedPrecondition KEY_DELETED: the key is deleted");
    }
}

on_every_engine! {
    async fn all_that_is_wrong_is_told_at_once(service: Service) {
        let settings = proto::ApiKey {
            id: "key_1".into(),
            merchant_username: "no merchant".into(),
            display_name: "a\u{1b}[31m".into(),
            allowed_ips: vec!["10.0.0.5/8".into(), "10.0.0.1".into(), "10.0.0.1/32".into()],
            denied_ips: vec!["::ffff:10.0.0.1".into()],
            webhook_format: 9,
            scopes: vec!["Payments".into(), "claviger:root".into(), "a".into(), "a".into()],
            labels: BTreeMap::from([(String::new(), "x".into()), ("tab".into(), "\t".into())]),
            not_before_time: Some(Timestamp { seconds: 0, nanos: 1_000_000_000 }),
            ttl: Some(prost_types::Duration { seconds: -5, nanos: 0 }),
            previous_secret_expire_time: Some(after_beginning(Duration::ZERO)),
            masked_key: service.admin.clone(),
            ..Default::default()
        };
        let paths = [
            "display_name",
            "allowed_ips",
            "denied_ips",
            "webhook_format",
            "scopes",
            "labels",
            "not_before_time",
            "ttl",
            "previous_secret_expire_time",
            "state",
        ];
        let update_mask = Some(FieldMask { paths: paths.map(String::from).to_vec() });
        let request = proto::UpdateRequest { api_key: Some(settings), update_mask, ..Default::default() };
        let status: Status = service.admin().update(request).await.unwrap_err();
        insta::assert_snapshot!(violations(&status), @r#"
        api_key.id: `key_1` is no key id; it is `key_` and 22 characters of 0-9A-Za-z
        api_key.merchant_username: `no merchant` is no merchant username; it has 1 to 64 characters of A-Za-z0-9._@-
        api_key.masked_key: holds a key string, which belongs into no field but `key`; treat that key as leaked
        update_mask.paths[9]: `state` cannot be updated; there are display_name, allowed_ips, denied_ips, webhook_format, scopes, labels, disabled, not_before_time, expire_time, ttl, previous_secret_expire_time
        api_key.allowed_ips[0]: `10.0.0.5/8` has bits set beyond its prefix; write 10.0.0.0/8 for the block or 10.0.0.5 for the address
        api_key.allowed_ips[2]: repeats api_key.allowed_ips[1]; leave it out
        api_key.denied_ips[0]: `::ffff:10.0.0.1` is in the IPv4-mapped form, which never matches; write 10.0.0.1
        api_key.display_name: holds the control character U+001B; write it without
        api_key.labels: is an empty key; give the label a name
        api_key.labels["tab"]: holds the control character U+0009; write it without
        api_key.not_before_time: lies outside the years 1 to 9999, or its nanos outside 0 to 999,999,999
        api_key.previous_secret_expire_time: lies in the past; name a moment in the future, or leave it empty
        api_key.scopes[0]: `Payments` holds `P`; a scope consists of a-z0-9:._- and is compared whole
        api_key.scopes[1]: `claviger:root` is reserved and does not exist; there are claviger:keys.read, claviger:keys.write, claviger:validate, claviger:audit.read, claviger:admin, claviger:all-merchants
        api_key.scopes[3]: repeats api_key.scopes[2]; leave it out
        api_key.ttl: is below zero or no duration; it has to be above zero
        api_key.webhook_format: 9 is no webhook format; use WEBHOOK_FORMAT_SINGLE_JSON or WEBHOOK_FORMAT_MULTIPLE_JSON
        "#);
        assert!(!format!("{status:?}").contains(&service.admin));
    }
}
