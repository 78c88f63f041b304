//! `request_id`: a retried Create or Rotate makes no second secret and does not lose the first.

use std::{collections::BTreeMap, time::Duration};

use claviger::{
    domain::scope,
    grpc::proto::{self, DecisionCode},
};
use tonic::Status;

use crate::{
    calls::{self, delete, get, number, refusal, refused_for, rotate, sealed_replays, update},
    harness::{Client, Engine, Service, after_beginning, key_of, reason, violations},
};

const ID: &str = "0123456789abcdef";

async fn create(mut client: Client, id: &str, api_key: proto::ApiKey) -> Result<proto::CreateResponse, Status> {
    let request = proto::CreateRequest { api_key: Some(api_key), request_id: id.into() };
    Ok(client.create(request).await?.into_inner())
}

async fn rotate_with(mut client: Client, id: &str, key_id: &str) -> Result<proto::RotateResponse, Status> {
    let request = proto::RotateRequest { id: key_id.into(), request_id: id.into(), ..Default::default() };
    Ok(client.rotate(request).await?.into_inner())
}

fn wanted() -> proto::ApiKey {
    proto::ApiKey {
        allowed_ips: vec!["10.0.0.0/8".into(), "2001:db8::1".into()],
        denied_ips: vec!["10.0.0.1".into(), "10.0.0.2".into()],
        labels: BTreeMap::from([("a".into(), "1".into()), ("b".into(), "2".into())]),
        ttl: Some(prost_types::Duration { seconds: 7_200, nanos: 0 }),
        ..key_of("claviger", &["x", "y"])
    }
}

on_every_engine! {
    async fn case_34_the_same_request_makes_one_key_and_shows_the_same_secret(service: Service) {
        let first = create(service.admin(), ID, wanted()).await.unwrap();
        assert!(!first.replayed);
        let head = calls::head(&service).await;
        service.clock.advance(Duration::from_secs(15 * 60 - 1));
        let spelled_otherwise = proto::ApiKey {
            allowed_ips: vec!["2001:0DB8::0001".into(), "10.0.0.0/8".into()],
            denied_ips: vec!["10.0.0.2/32".into(), "10.0.0.1".into()],
            scopes: vec!["y".into(), "x".into()],
            webhook_format: proto::WebhookFormat::SingleJson.into(),
            merchant_username: String::new(),
            ..wanted()
        };
        for request in [wanted(), spelled_otherwise] {
            let again = create(service.admin(), ID, request).await.unwrap();
            assert!(again.replayed);
            assert_eq!((again.key, again.api_key), (first.key.clone(), first.api_key.clone()));
        }
        assert_eq!(calls::head(&service).await, head);
    }
}

on_every_engine! {
    async fn case_34_the_same_request_id_with_another_meaning_is_refused(service: Service) {
        create(service.admin(), ID, wanted()).await.unwrap();
        let head = calls::head(&service).await;
        let others = [
            proto::ApiKey { merchant_username: "acme".into(), ..wanted() },
            proto::ApiKey { display_name: "x".into(), ..wanted() },
            proto::ApiKey { allowed_ips: vec!["10.0.0.0/8".into()], ..wanted() },
            proto::ApiKey { allowed_ips: wanted().denied_ips, denied_ips: wanted().allowed_ips, ..wanted() },
            proto::ApiKey { webhook_format: proto::WebhookFormat::MultipleJson.into(), ..wanted() },
            proto::ApiKey { scopes: vec!["x".into()], ..wanted() },
            proto::ApiKey { labels: BTreeMap::from([("a".into(), "2".into()), ("b".into(), "1".into())]), ..wanted() },
            proto::ApiKey { labels: BTreeMap::from([("a".into(), "1".into())]), ..wanted() },
            proto::ApiKey { disabled: true, ..wanted() },
            proto::ApiKey { not_before_time: Some(after_beginning(Duration::from_secs(5))), ..wanted() },
            proto::ApiKey { ttl: Some(prost_types::Duration { seconds: 7_201, nanos: 0 }), ..wanted() },
            proto::ApiKey { ttl: None, ..wanted() },
            proto::ApiKey {
                ttl: None,
                expire_time: Some(after_beginning(Duration::from_secs(7_200))),
                ..wanted()
            },
        ];
        for other in others {
            assert_eq!(refused_for(create(service.admin(), ID, other.clone()).await), "REQUEST_ID_REUSED", "{other:?}");
        }
        let made = service.make_for("acme", &[]).await;
        assert_eq!(refused_for(rotate_with(service.admin(), ID, &made.id).await), "REQUEST_ID_REUSED");
        insta::assert_snapshot!(refusal(create(service.admin(), ID, key_of("acme", &[])).await), @"FailedPrecondition REQUEST_ID_REUSED: this request_id was used before for a request with another meaning; choose a new one");
        assert_eq!(calls::head(&service).await, head + 1, "only the key that was made for Rotate");
    }
}

on_every_engine! {
    async fn case_34_fifty_at_once_make_one_key(service: Service) {
        let head = calls::head(&service).await;
        let calls = (0..50).map(|_| create(service.admin(), ID, wanted()));
        let answers = futures_util::future::join_all(calls).await;
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.unwrap()).collect();
        assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
        assert!(answers.iter().all(|answer| answer.key == answers[0].key && answer.api_key == answers[0].api_key));
        assert_eq!(calls::head(&service).await, head + 1);
    }
}

on_every_engine! {
    async fn case_34_fifty_at_once_rotate_once(service: Service) {
        let made = service.make_for("acme", &[]).await;
        let head = calls::head(&service).await;
        let calls = (0..50).map(|_| rotate_with(service.admin(), ID, &made.id));
        let answers = futures_util::future::join_all(calls).await;
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.unwrap()).collect();
        assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
        assert!(answers.iter().all(|answer| answer.key == answers[0].key && answer.enforced));
        assert_eq!(calls::head(&service).await, head + 1);
        assert_eq!(service.decision(&answers[0].key).await, DecisionCode::Valid);
        assert_eq!(service.decision(&made.key).await, DecisionCode::SecretRetired);
    }
}

on_every_engine! {
    async fn after_a_quarter_of_an_hour_the_secret_is_not_shown_again_but_the_key_is_named(service: Service) {
        let first = create(service.admin(), ID, wanted()).await.unwrap();
        let id = first.api_key.unwrap().id;
        service.clock.advance(Duration::from_secs(15 * 60));
        // Whether or not it has been erased yet.
        for erased in [false, true] {
            if erased {
                service.clock.advance(Duration::from_secs(1));
                service.app.upkeep().await.unwrap();
                assert_eq!(sealed_replays(&service).await, 0);
                assert_eq!(number(&service, "SELECT count(*) FROM completed_request").await, 1);
            }
            let status = create(service.admin(), ID, wanted()).await.err().unwrap();
            assert_eq!((status.code(), reason(&status).as_str()), (tonic::Code::AlreadyExists, "REQUEST_ID_EXPIRED"));
            let details = tonic_types::StatusExt::get_details_error_info(&status).unwrap();
            assert_eq!(details.metadata["key_id"], id);
            insta::assert_snapshot!(status.message().replace(&id, "<id>"), @"this request_id already made a secret of <id> which can no longer be shown (it can for 15 minutes, and not across an upgrade that erases it); Rotate that key for a new one");
        }
        assert_eq!(refused_for(create(service.admin(), ID, key_of("acme", &[])).await), "REQUEST_ID_REUSED");
    }
}

on_every_engine! {
    async fn upkeep_erases_what_is_due_and_nothing_else(service: Service) {
        create(service.admin(), ID, wanted()).await.unwrap();
        service.clock.advance(Duration::from_secs(15 * 60));
        let second = create(service.admin(), "another-request-id", wanted()).await.unwrap();
        let head = calls::head(&service).await;
        service.clock.advance(Duration::from_secs(1));
        service.app.upkeep().await.unwrap();
        assert_eq!(sealed_replays(&service).await, 1);
        assert_eq!(create(service.admin(), "another-request-id", wanted()).await.unwrap().key, second.key);
        assert_eq!(calls::head(&service).await, head, "erasing is no change of a key");
    }
}

on_every_engine! {
    async fn a_secret_that_was_rotated_away_since_is_not_shown_again(service: Service) {
        let id = create(service.admin(), ID, wanted()).await.unwrap().api_key.unwrap().id;
        rotate_with(service.admin(), "rotate-request-id-1", &id).await.unwrap();
        insta::assert_snapshot!(refusal(create(service.admin(), ID, wanted()).await), @"FailedPrecondition REQUEST_ID_SUPERSEDED: the secret that this request_id made was rotated away since; choose a new request_id");
        rotate(service.admin(), &id, 3_600).await.unwrap();
        let outcome = rotate_with(service.admin(), "rotate-request-id-1", &id).await;
        assert_eq!(refused_for(outcome), "REQUEST_ID_SUPERSEDED");
    }
}

on_every_engine! {
    async fn a_replay_shows_the_key_as_it_is_today(service: Service) {
        let first = create(service.admin(), ID, wanted()).await.unwrap();
        let id = first.api_key.unwrap().id;
        let named = proto::ApiKey { display_name: "renamed".into(), ..Default::default() };
        update(service.admin(), &id, &["display_name"], named).await.unwrap();
        let again = create(service.admin(), ID, wanted()).await.unwrap();
        assert_eq!(again.key, first.key);
        assert_eq!(again.api_key.unwrap().display_name, "renamed");
        delete(service.admin(), &id).await.unwrap();
        let again = create(service.admin(), ID, wanted()).await.unwrap();
        assert_eq!(again.key, first.key);
        assert_eq!(again.api_key.unwrap().state(), proto::State::Deleted);
    }
}

on_every_engine! {
    async fn a_replay_of_rotate_does_not_compare_the_etag_it_changed_itself(service: Service) {
        let made = service.make_for("acme", &[]).await;
        let request = || proto::RotateRequest {
            id: made.id.clone(),
            etag: made.api_key.etag.clone(),
            request_id: ID.into(),
            ..Default::default()
        };
        let first = service.admin().rotate(request()).await.unwrap().into_inner();
        let again = service.admin().rotate(request()).await.unwrap().into_inner();
        assert!(again.replayed && !first.replayed && again.enforced);
        assert_eq!((again.key, again.api_key), (first.key, first.api_key));
        let with_overlap = proto::RotateRequest {
            overlap: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            ..request()
        };
        assert_eq!(refused_for(service.admin().rotate(with_overlap).await), "REQUEST_ID_REUSED");
        let explicit_zero = proto::RotateRequest { overlap: Some(prost_types::Duration::default()), ..request() };
        assert!(service.admin().rotate(explicit_zero).await.unwrap().into_inner().replayed);
    }
}

on_every_engine! {
    async fn rights_that_were_lost_since_take_the_replay_away(service: Service) {
        let caller = service.make_for("acme", &[scope::KEYS_WRITE, scope::KEYS_READ]).await;
        let calling = || service.client(&caller.key);
        let scopes = |names: &[&str]| proto::ApiKey {
            scopes: names.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        let made = create(calling(), ID, key_of("acme", &[])).await.unwrap().api_key.unwrap();
        // Somebody made an administrator of the key: its secret is not this caller's any longer.
        update(service.admin(), &made.id, &["scopes"], scopes(&[scope::ADMIN])).await.unwrap();
        assert_eq!(refused_for(create(calling(), ID, key_of("acme", &[])).await), "RESERVED_SCOPE_NOT_HELD");
        update(service.admin(), &made.id, &["scopes"], scopes(&[])).await.unwrap();
        assert!(create(calling(), ID, key_of("acme", &[])).await.unwrap().replayed);

        rotate_with(calling(), "rotate-request-id-1", &made.id).await.unwrap();
        update(service.admin(), &made.id, &["scopes"], scopes(&[scope::ADMIN])).await.unwrap();
        let outcome = rotate_with(calling(), "rotate-request-id-1", &made.id).await;
        assert_eq!(refused_for(outcome), "RESERVED_SCOPE_NOT_HELD");
        update(service.admin(), &made.id, &["scopes"], scopes(&[])).await.unwrap();

        update(service.admin(), &caller.id, &["scopes"], scopes(&[scope::KEYS_READ])).await.unwrap();
        assert_eq!(refused_for(create(calling(), ID, key_of("acme", &[])).await), "SCOPE_MISSING");
        assert_eq!(refused_for(rotate_with(calling(), "rotate-request-id-1", &made.id).await), "SCOPE_MISSING");
    }
}

on_every_engine! {
    async fn a_replay_beyond_the_reach_of_today_is_not_found(service: Service) {
        let caller = service.make_for("acme", &[scope::KEYS_WRITE, scope::ALL_MERCHANTS]).await;
        let made = create(service.client(&caller.key), ID, key_of("other", &[])).await.unwrap().api_key.unwrap();
        rotate_with(service.client(&caller.key), "rotate-request-id-1", &made.id).await.unwrap();
        let narrower = proto::ApiKey { scopes: vec![scope::KEYS_WRITE.into()], ..Default::default() };
        update(service.admin(), &caller.id, &["scopes"], narrower).await.unwrap();
        let outcome = create(service.client(&caller.key), ID, key_of("other", &[])).await;
        assert_eq!(refused_for(outcome), "MERCHANT_OUT_OF_REACH");
        let outcome = create(service.client(&caller.key), ID, key_of("acme", &[])).await;
        assert_eq!(refused_for(outcome), "KEY_NOT_FOUND");
        let outcome = rotate_with(service.client(&caller.key), "rotate-request-id-1", &made.id).await;
        assert_eq!(refused_for(outcome), "KEY_NOT_FOUND");
    }
}

on_every_engine! {
    async fn the_ids_of_two_callers_do_not_meet_and_those_of_one_outlive_its_secret(service: Service) {
        let one = service.make_for("acme", &[scope::KEYS_WRITE]).await;
        let two = service.make_for("acme", &[scope::KEYS_WRITE]).await;
        let first = create(service.client(&one.key), ID, key_of("acme", &[])).await.unwrap();
        let second = create(service.client(&two.key), ID, key_of("acme", &[])).await.unwrap();
        assert!(!second.replayed);
        assert_ne!(first.key, second.key);
        let rotated = rotate(service.admin(), &one.id, 0).await.unwrap();
        assert_eq!(create(service.client(&rotated.key), ID, key_of("acme", &[])).await.unwrap().key, first.key);
    }
}

on_every_engine! {
    async fn a_request_id_has_16_to_64_visible_ascii_characters(service: Service) {
        let head = calls::head(&service).await;
        let mut told = vec![];
        let long = "x".repeat(65);
        for id in ["short-by-one-ch", &long, "with a space in it", "a-tab-in-here\there", "ünïcödé-ünïcödé-ü", "line\nline-line-line"]
        {
            told.push(violations(&create(service.admin(), id, wanted()).await.err().unwrap()));
        }
        insta::assert_snapshot!(told.join("\n"), @r"
        request_id: has 15 characters; a request id has 16 to 64 visible ASCII characters, such as a UUID
        request_id: has 65 characters; a request id has 16 to 64 visible ASCII characters, such as a UUID
        request_id: holds ` `; a request id has 16 to 64 visible ASCII characters, such as a UUID
        request_id: holds `\u{9}`; a request id has 16 to 64 visible ASCII characters, such as a UUID
        request_id: holds `\u{fc}`; a request id has 16 to 64 visible ASCII characters, such as a UUID
        request_id: holds `\u{a}`; a request id has 16 to 64 visible ASCII characters, such as a UUID
        ");
        assert_eq!(calls::head(&service).await, head);
        for id in ["!~0123456789abcd", &"x".repeat(64), "0123456789ABCDEF", "0123456789abcdef"] {
            assert!(!create(service.admin(), id, wanted()).await.unwrap().replayed, "{id}");
        }
        let made = service.make_for("acme", &[]).await;
        assert_eq!(refused_for(rotate_with(service.admin(), "short", &made.id).await), "FIELDS_INVALID");
        assert_eq!(get(service.admin(), &made.id).await.unwrap(), made.api_key);
    }
}

on_every_engine! {
    async fn a_request_id_lives_as_long_as_its_key(service: Service) {
        let made = create(service.admin(), ID, wanted()).await.unwrap().api_key.unwrap();
        delete(service.admin(), &made.id).await.unwrap();
        service.clock.advance(Duration::from_secs(30 * 24 * 60 * 60 - 1));
        service.app.upkeep().await.unwrap();
        assert_eq!(refused_for(create(service.admin(), ID, wanted()).await), "REQUEST_ID_EXPIRED");
        service.clock.advance(Duration::from_secs(1));
        service.app.upkeep().await.unwrap();
        assert_eq!(refused_for(get(service.admin(), &made.id).await), "KEY_NOT_FOUND");
        assert!(!create(service.admin(), ID, wanted()).await.unwrap().replayed);
    }
}

on_every_engine! {
    async fn a_retry_is_answered_although_the_key_would_have_ended_by_now(service: Service) {
        let minute = Duration::from_secs(60);
        let wanted = proto::ApiKey { expire_time: Some(after_beginning(minute)), ..key_of("acme", &[]) };
        let ask = async |request_id: &str| {
            let request = proto::CreateRequest { api_key: Some(wanted.clone()), request_id: request_id.into() };
            service.admin().create(request).await.map(tonic::Response::into_inner)
        };
        let first = ask("0123456789abcdef").await.unwrap();
        service.clock.advance(minute * 2);
        let again = ask("0123456789abcdef").await.unwrap();
        assert_eq!((&again.key, again.replayed), (&first.key, true));
        for new in ["another-request-1", ""] {
            let refused = ask(new).await.err().unwrap();
            insta::assert_snapshot!(violations(&refused), @"api_key.expire_time: lies in the past; name a moment in the future, or leave it empty");
        }
    }
}
