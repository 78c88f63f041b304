//! What Validate answers: every code, in its order, on the real service.

use std::time::Duration;

use claviger::{
    app::alarms::Alarm,
    domain::Time,
    grpc::proto::{self, DecisionCode},
};
use tonic::Code;

use crate::harness::{BEGINNING, Engine, Service, after_beginning, key_of, reason, violations};

on_every_engine! {
    async fn case_1_to_9_what_is_no_key_string_of_ours_costs_no_work(service: Service) {
        let made = service.make_for("acme", &[]).await;
        let other = service.make_for("acme", &[]).await;
        assert_eq!(service.decision(&made.key).await, DecisionCode::Valid);
        let flipped = |position: usize| {
            let mut text = made.key.clone().into_bytes();
            text[position] ^= 0x20;
            String::from_utf8(text).unwrap()
        };
        let mut wrong = vec![
            String::new(),
            made.key[..87].to_owned(),
            made.key[..82].to_owned(),
            made.key[..71].to_owned(),
            format!("{}0", made.key),
            format!("{}{}", made.key, "x".repeat(100 * 1024)),
            format!("{}{}", &made.key[..72], &other.key[72..]),
        ];
        for extra in [" ", "\t", "\r\n", "\0", "\u{FEFF}", "\u{200D}"] {
            wrong.extend([format!("{extra}{}", made.key), format!("{}{extra}", made.key)]);
        }
        let letters = made.key.char_indices().filter(|(_, c)| c.is_ascii_alphabetic());
        wrong.extend(letters.map(|(position, _)| flipped(position)));
        service.until_warm("").await;
        let (statements, hashes) = service.work();
        for text in &wrong {
            let answer = service.validate(text, "").await.unwrap();
            assert_eq!((answer.valid, answer.code()), (false, DecisionCode::Malformed), "{text:?}");
            assert_eq!((answer.key_id.as_str(), answer.revision.as_str()), ("", ""), "{text:?}");
        }
        assert_eq!(service.work(), (statements, hashes));
    }
}

on_every_engine! {
    async fn case_6_a_forged_tag_is_malformed_and_costs_no_work(service: Service) {
        use claviger::domain::key_string::KeyFormat;
        let stranger = crate::harness::root('0', 8);
        let format = KeyFormat::new("clv".parse().unwrap(), vec![]);
        let forged = claviger::app::offline_key(&format, &stranger).unwrap();
        service.until_warm("").await;
        let (statements, hashes) = service.work();
        assert_eq!(service.decision(forged.reveal()).await, DecisionCode::Malformed);
        assert_eq!(service.work(), (statements, hashes));
    }
}

on_every_engine! {
    async fn a_key_string_that_was_made_but_never_stored_is_not_found(service: Service) {
        use claviger::domain::key_string::KeyFormat;
        let format = KeyFormat::new("clv".parse().unwrap(), vec![]);
        let unborn = claviger::app::offline_key(&format, &crate::harness::root('0', 7)).unwrap();
        let answer = service.validate(unborn.reveal(), "").await.unwrap();
        assert_eq!((answer.code(), answer.key_id.as_str()), (DecisionCode::NotFound, ""));
        assert_ne!(answer.revision, "", "the database was asked");
    }
}

on_every_engine! {
    async fn case_8_two_secrets_live_at_most_and_the_answer_tells_when_the_older_ends(service: Service) {
        let first = service.make_for("acme", &[]).await;
        let rotate = async |overlap: Option<Duration>| {
            let overlap = overlap.map(|overlap| overlap.try_into().unwrap());
            let request = proto::RotateRequest { id: first.id.clone(), overlap, ..Default::default() };
            service.admin().rotate(request).await.unwrap().into_inner()
        };
        let hour = Duration::from_secs(3_600);
        let second = rotate(Some(hour)).await;
        assert_eq!(second.api_key.as_ref().unwrap().previous_secret_expire_time, Some(after_beginning(hour)));
        let principal = service.validate(&first.key, "").await.unwrap().principal.unwrap();
        assert_eq!(principal.secret_expire_time, Some(after_beginning(hour)));
        let principal = service.validate(&second.key, "").await.unwrap().principal.unwrap();
        assert_eq!(principal.secret_expire_time, None);

        let third = rotate(Some(hour)).await;
        assert_eq!(service.decision(&first.key).await, DecisionCode::SecretRetired, "never three");
        assert_eq!(service.decision(&second.key).await, DecisionCode::Valid);
        assert_eq!(service.decision(&third.key).await, DecisionCode::Valid);

        service.clock.advance(hour);
        assert_eq!(service.decision(&second.key).await, DecisionCode::SecretRetired, "the end is exclusive");
        let fourth = rotate(None).await;
        assert_eq!(service.decision(&third.key).await, DecisionCode::SecretRetired, "no overlap");
        assert_eq!(service.decision(&fourth.key).await, DecisionCode::Valid);
        assert_eq!(fourth.api_key.unwrap().id, first.id);
    }
}

on_every_engine! {
    async fn case_13_rules_without_an_address_refuse_and_what_is_no_address_is_no_question(service: Service) {
        let made = service.make(proto::ApiKey { allowed_ips: vec!["10.0.0.0/8".into()], ..key_of("acme", &[]) }).await;
        assert_eq!(service.decision(&made.key).await, DecisionCode::CallerIpRequired);
        let mut told = Vec::new();
        for ip in ["unknown", "10.0.0.1:443", "[::1]", "10.0.0.1, 1.2.3.4"] {
            for key in [made.key.as_str(), "", "nonsense"] {
                let refused = service.validate(key, ip).await.unwrap_err();
                assert_eq!(refused.code(), Code::InvalidArgument, "{ip}, whatever the key");
                told.push(violations(&refused));
            }
        }
        told.dedup();
        insta::allow_duplicates! {
            insta::assert_snapshot!(told.join("\n"), @r"
            caller_ip: `unknown` is no IP address; write one IPv4 or IPv6 address, without port, brackets, zone or prefix length
            caller_ip: `10.0.0.1:443` is no IP address; write one IPv4 or IPv6 address, without port, brackets, zone or prefix length
            caller_ip: `[::1]` is no IP address; write one IPv4 or IPv6 address, without port, brackets, zone or prefix length
            caller_ip: `10.0.0.1, 1.2.3.4` is no IP address; write one IPv4 or IPv6 address, without port, brackets, zone or prefix length
            ");
        }
    }
}

on_every_engine! {
    async fn case_14_the_address_is_no_part_of_what_is_remembered(service: Service) {
        let rules = proto::ApiKey {
            allowed_ips: vec!["192.0.2.0/24".into(), "2001:db8::/32".into()],
            denied_ips: vec!["192.0.2.9".into()],
            ..key_of("acme", &[])
        };
        let made = service.make(rules).await;
        for (ip, code, canonical) in [
            ("192.0.2.7", DecisionCode::Valid, "192.0.2.7"),
            ("198.51.100.1", DecisionCode::IpNotAllowed, "198.51.100.1"),
            ("192.0.2.9", DecisionCode::IpNotAllowed, "192.0.2.9"),
            ("::ffff:192.0.2.7", DecisionCode::Valid, "192.0.2.7"),
            ("::FFFF:192.0.2.9", DecisionCode::IpNotAllowed, "192.0.2.9"),
            ("2001:DB8:0:0::1", DecisionCode::Valid, "2001:db8::1"),
        ] {
            let answer = service.validate(&made.key, ip).await.unwrap();
            assert_eq!((answer.code(), answer.caller_ip.as_str()), (code, canonical), "{ip}");
            assert_eq!(answer.key_id, made.id);
        }
    }
}

on_every_engine! {
    async fn case_18_a_key_validated_many_times_is_hashed_once(service: Service) {
        let made = service.make_for("acme", &[]).await;
        service.validate("", "").await.unwrap();
        let (_, before) = service.work();
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..1_000 {
            let (mut client, key) = (service.admin(), made.key.clone());
            calls.spawn(async move {
                let request = proto::ValidateRequest { key, ..Default::default() };
                client.validate(request).await.unwrap().into_inner().valid
            });
        }
        assert!(calls.join_all().await.into_iter().all(|valid| valid));
        assert_eq!(service.work().1 - before, 1);
    }
}

on_every_engine! {
    async fn case_24_a_clock_that_jumps_only_moves_what_depends_on_it(service: Service) {
        let hour = Duration::from_secs(3_600);
        let made = service
            .make(proto::ApiKey {
                not_before_time: Some(after_beginning(Duration::ZERO)),
                expire_time: Some(after_beginning(hour)),
                ..key_of("acme", &[])
            })
            .await;
        let forever = service.make_for("acme", &[]).await;
        let at = |micros: i64| Time::from_micros(micros);
        let hour_micros = 3_600_000_000;
        for (now, code) in [
            (at(BEGINNING), DecisionCode::Valid),
            (at(BEGINNING - hour_micros), DecisionCode::NotYetValid),
            (at(BEGINNING + hour_micros), DecisionCode::Expired),
            (at(-hour_micros), DecisionCode::NotYetValid),
            (at(4_300_000_000_000_000), DecisionCode::Expired),
            (Time::MIN, DecisionCode::NotYetValid),
            (Time::MAX, DecisionCode::Expired),
            (at(BEGINNING + 1), DecisionCode::Valid),
        ] {
            service.clock.set(now);
            assert_eq!(service.decision(&made.key).await, code, "{now:?}");
            assert_eq!(service.decision(&forever.key).await, DecisionCode::Valid, "{now:?}");
            // Management goes on as well, and upkeep loses nothing that is alive.
            let answer = service.admin().list(proto::ListRequest::default()).await.unwrap().into_inner();
            assert_eq!(answer.api_keys.len(), 3, "{now:?}");
            service.app.upkeep().await.unwrap();
        }
    }
}

on_every_engine! {
    async fn case_25_the_beginning_is_inclusive_and_the_end_exclusive(service: Service) {
        let (begin, end) = (Duration::from_secs(10), Duration::from_secs(20));
        let made = service
            .make(proto::ApiKey {
                not_before_time: Some(after_beginning(begin)),
                expire_time: Some(after_beginning(end)),
                ..key_of("acme", &[])
            })
            .await;
        let micro = Duration::from_micros(1);
        let mut passed = Duration::ZERO;
        for (moment, code) in [
            (begin.checked_sub(micro).unwrap(), DecisionCode::NotYetValid),
            (begin, DecisionCode::Valid),
            (end.checked_sub(micro).unwrap(), DecisionCode::Valid),
            (end, DecisionCode::Expired),
        ] {
            service.clock.advance(moment.checked_sub(passed).unwrap());
            passed = moment;
            assert_eq!(service.decision(&made.key).await, code, "{moment:?}");
        }
    }
}

on_every_engine! {
    async fn required_scopes_are_compared_whole_and_the_missing_ones_are_told(service: Service) {
        let made = service.make_for("acme", &["charge:create", "charge:read"]).await;
        let ask = async |scopes: &[&str]| {
            let required_scopes = scopes.iter().map(ToString::to_string).collect();
            let request = proto::ValidateRequest { key: made.key.clone(), required_scopes, ..Default::default() };
            service.admin().validate(request).await.map(tonic::Response::into_inner)
        };
        assert!(ask(&["charge:read", "charge:create"]).await.unwrap().valid);
        let refused = ask(&["refund", "charge:read", "charge", "charge:*x".trim_end_matches("*x")]).await.unwrap();
        assert_eq!(refused.code(), DecisionCode::ScopeNotGranted);
        assert_eq!(refused.missing_scopes, ["refund", "charge", "charge:"]);
        assert_eq!(refused.key_id, made.id);
        let broken = ask(&["Charge", "", "a*"]).await.unwrap_err();
        insta::allow_duplicates! {
            insta::assert_snapshot!(violations(&broken), @r"
            required_scopes[0]: `Charge` holds `C`; a scope consists of a-z0-9:._- and is compared whole
            required_scopes[1]: is empty; a scope has 1 to 64 characters of a-z0-9:._-
            required_scopes[2]: `a*` holds `*`; a scope consists of a-z0-9:._- and is compared whole
            ");
        }
    }
}

on_every_engine! {
    async fn a_key_beyond_the_caller_s_reach_does_not_exist_for_it(service: Service) {
        let stranger = service.make_for("other", &["claviger:validate"]).await;
        let made = service.make_for("acme", &[]).await;
        for _ in 0..2 {
            let request = proto::ValidateRequest { key: made.key.clone(), ..Default::default() };
            let answer = service.client(&stranger.key).validate(request).await.unwrap().into_inner();
            assert_eq!((answer.code(), answer.key_id.as_str()), (DecisionCode::NotFound, ""));
            assert_eq!(service.decision(&made.key).await, DecisionCode::Valid, "and once more with a warm key");
        }
    }
}

on_every_engine! {
    async fn a_valid_answer_tells_all_that_a_calling_service_needs(service: Service) {
        let wanted = proto::ApiKey {
            display_name: "Till 4".into(),
            labels: [("shop".to_owned(), "Berlin".to_owned())].into(),
            webhook_format: proto::WebhookFormat::MultipleJson.into(),
            expire_time: Some(after_beginning(Duration::from_secs(60))),
            ..key_of("acme", &["b", "a"])
        };
        let made = service.make(wanted.clone()).await;
        let answer = service.validate(&made.key, "").await.unwrap();
        let principal = answer.principal.unwrap();
        assert_eq!((answer.key_id, &principal.key_id), (made.id.clone(), &made.id));
        assert_eq!(principal.merchant_username, "acme");
        assert_eq!(principal.display_name, wanted.display_name);
        assert_eq!(principal.labels, wanted.labels);
        assert_eq!(principal.webhook_format, wanted.webhook_format);
        assert_eq!(principal.expire_time, wanted.expire_time);
        assert_eq!(principal.scopes, wanted.scopes);
        assert_ne!(answer.revision, "");
    }
}

on_every_engine! {
    async fn without_the_right_nothing_is_told_about_a_key(service: Service) {
        let caller = service.make_for("acme", &["claviger:keys.read"]).await;
        let request = proto::ValidateRequest { key: caller.key.clone(), ..Default::default() };
        let refused = service.client(&caller.key).validate(request).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "SCOPE_MISSING"));
        insta::allow_duplicates! {
            insta::assert_snapshot!(refused.message(), @"the caller's key lacks the scope claviger:validate");
        }
    }
}

on_every_engine! {
    async fn a_scope_that_is_required_twice_is_required(service: Service) {
        let made = service.make_for("acme", &["a"]).await;
        let required_scopes = vec!["a".to_owned(), "a".to_owned(), "b".to_owned(), "b".to_owned()];
        let request = proto::ValidateRequest { key: made.key, required_scopes, ..Default::default() };
        let answer = service.admin().validate(request).await.unwrap().into_inner();
        assert_eq!((answer.code(), answer.missing_scopes), (DecisionCode::ScopeNotGranted, vec!["b".to_owned()]));
    }
}

on_every_engine! {
    async fn a_hash_that_does_not_match_is_run_once_and_told_each_time(service: Service) {
        let (mine, other) = (service.make_for("acme", &[]).await, service.make_for("acme", &[]).await);
        let sql = format!(
            "UPDATE credential SET phc = (SELECT phc FROM credential WHERE key_id = (SELECT id FROM api_key WHERE \
             display_name = 'other')) WHERE key_id <> (SELECT id FROM api_key WHERE display_name = 'other') AND key_id IN \
             (SELECT id FROM api_key WHERE merchant_username = '{}')",
            other.api_key.merchant_username
        );
        service.execute(&format!("UPDATE api_key SET display_name = 'other' WHERE {}", id_is(&service, &other.id))).await;
        assert_eq!(service.execute(&sql).await, 1);
        let (_, before) = service.work();
        for _ in 0..5 {
            assert_eq!(service.decision(&mine.key).await, DecisionCode::NotFound);
        }
        assert_eq!(service.work().1 - before, 1);
        assert_eq!(service.app.alarms().raised(Alarm::HashMismatch), 5);
    }
}

/// A condition on the bytes of a key's id.
fn id_is(service: &Service, id: &str) -> String {
    let id: claviger::domain::KeyId = id.parse().unwrap();
    let hexadecimal = id.as_bytes().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    match service.app.store().engine() {
        claviger::store::Engine::Sqlite => format!("id = x'{hexadecimal}'"),
        claviger::store::Engine::Postgres => format!("id = decode('{hexadecimal}', 'hex')"),
    }
}

on_every_engine! {
    async fn a_caller_from_a_wrong_address_is_written_down(service: Service) {
        let elsewhere = proto::ApiKey {
            allowed_ips: vec!["192.0.2.1".into()],
            ..key_of("acme", &["claviger:validate"])
        };
        let stolen = service.make(elsewhere).await;
        let request = proto::ValidateRequest::default();
        let refused = service.client(&stolen.key).validate(request).await.unwrap_err();
        assert_eq!(reason(&refused), "PEER_NOT_ALLOWED");
        service.app.drain().await;
        let written = service.execute("DELETE FROM refusal_log WHERE reason = 'PEER_NOT_ALLOWED'").await;
        assert_eq!(written, 1);
    }
}
