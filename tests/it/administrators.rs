//! Who may do what to whom: the last administrator, one's own key, what can be granted, and that rights are those of
//! today.

use std::time::Duration;

use claviger::{domain::scope, grpc::proto};

use crate::{
    calls::{self, delete, get, refusal, refused_for, rotate, update},
    harness::{Engine, Made, Service, after_beginning, key_of},
};

/// Every change that would take the last administrator away, by a mask and the settings.
fn takes_away() -> Vec<(&'static str, proto::ApiKey)> {
    let key = proto::ApiKey::default;
    let scopes = |names: &[&str]| proto::ApiKey { scopes: names.iter().map(ToString::to_string).collect(), ..key() };
    vec![
        ("disabled", proto::ApiKey { disabled: true, ..key() }),
        ("scopes", scopes(&[])),
        ("scopes", scopes(&[scope::ADMIN])),
        ("scopes", scopes(&[scope::ALL_MERCHANTS])),
        (
            "scopes",
            scopes(&[scope::KEYS_READ, scope::KEYS_WRITE, scope::VALIDATE, scope::AUDIT_READ, scope::ALL_MERCHANTS]),
        ),
        ("allowed_ips", proto::ApiKey { allowed_ips: vec!["192.0.2.0/24".into()], ..key() }),
        ("denied_ips", proto::ApiKey { denied_ips: vec!["127.0.0.0/8".into()], ..key() }),
        ("expire_time", proto::ApiKey { expire_time: Some(after_beginning(Duration::from_secs(1_000_000))), ..key() }),
        ("ttl", proto::ApiKey { ttl: Some(prost_types::Duration { seconds: 1_000_000, nanos: 0 }), ..key() }),
        ("not_before_time", proto::ApiKey { not_before_time: Some(after_beginning(Duration::from_secs(60))), ..key() }),
    ]
}

async fn first_administrator(service: &Service) -> String {
    get(service.admin(), "self").await.unwrap().id
}

async fn administrator(service: &Service) -> Made {
    service.make_for("claviger", &[scope::ADMIN, scope::ALL_MERCHANTS]).await
}

on_every_engine! {
    async fn case_36_the_last_administrator_stays_whatever_is_tried(service: Service) {
        let id = first_administrator(&service).await;
        let before = calls::head(&service).await;
        for (mask, settings) in takes_away() {
            let outcome = update(service.admin(), &id, &[mask], settings.clone()).await;
            assert_eq!(refused_for(outcome), "LAST_ADMINISTRATOR", "{mask} {settings:?}");
        }
        insta::assert_snapshot!(refusal(delete(service.admin(), &id).await), @"FailedPrecondition LAST_ADMINISTRATOR: this is the last key that can administer all merchants from here: it has to stay active, without end, with its scopes and usable from this address; make another one first");
        assert_eq!(calls::head(&service).await, before);
        assert_eq!(get(service.admin(), "self").await.unwrap().etag, "\"1\"");
    }
}

on_every_engine! {
    async fn case_36_harmless_changes_of_the_last_administrator_are_allowed(service: Service) {
        let id = first_administrator(&service).await;
        let settings = proto::ApiKey {
            display_name: "root".into(),
            allowed_ips: vec!["127.0.0.1".into(), "::1".into()],
            scopes: vec![scope::ADMIN.into(), scope::ALL_MERCHANTS.into(), "payments:read".into()],
            ..Default::default()
        };
        update(service.admin(), &id, &["display_name", "allowed_ips", "scopes"], settings).await.unwrap();
        let rotated = rotate(service.admin(), &id, 900).await.unwrap();
        assert_eq!(get(service.client(&rotated.key), "self").await.unwrap().display_name, "root");
    }
}

on_every_engine! {
    async fn case_36_only_a_usable_administrator_counts_as_another_one(service: Service) {
        let id = first_administrator(&service).await;
        let scopes = [scope::ADMIN, scope::ALL_MERCHANTS];
        let unusable = [
            proto::ApiKey { disabled: true, ..key_of("claviger", &scopes) },
            proto::ApiKey {
                expire_time: Some(after_beginning(Duration::from_secs(1_000_000))),
                ..key_of("claviger", &scopes)
            },
            proto::ApiKey {
                not_before_time: Some(after_beginning(Duration::from_secs(60))),
                ..key_of("claviger", &scopes)
            },
            proto::ApiKey { allowed_ips: vec!["192.0.2.1".into()], ..key_of("claviger", &scopes) },
            key_of("claviger", &[scope::ADMIN]),
        ];
        for key in unusable {
            service.make(key).await;
        }
        let deleted = administrator(&service).await;
        delete(service.admin(), &deleted.id).await.unwrap();
        assert_eq!(refused_for(delete(service.admin(), &id).await), "LAST_ADMINISTRATOR");
        // One of them comes of age.
        service.clock.advance(Duration::from_secs(61));
        delete(service.admin(), &id).await.unwrap();
    }
}

on_every_engine! {
    async fn case_36_all_of_it_is_fine_once_there_is_a_second_administrator(service: Service) {
        administrator(&service).await;
        for (mask, settings) in takes_away() {
            let third = administrator(&service).await;
            update(service.client(&third.key), &third.id, &[mask], settings).await.unwrap();
        }
        let id = first_administrator(&service).await;
        let deleted = delete(service.admin(), &id).await.unwrap();
        assert_eq!(deleted.state(), proto::State::Deleted);
        assert_eq!(refused_for(get(service.admin(), "self").await), "CREDENTIALS_INVALID");
    }
}

on_every_engine! {
    async fn case_36_two_administrators_who_delete_each_other_at_once_leave_one(service: Service) {
        let first = get(service.admin(), "self").await.unwrap();
        let mut survivor = Made { id: first.id.clone(), key: service.admin.clone(), api_key: first };
        for round in 0..10 {
            let request = proto::CreateRequest {
                api_key: Some(key_of("claviger", &[scope::ADMIN, scope::ALL_MERCHANTS])),
                ..Default::default()
            };
            let made = service.client(&survivor.key).create(request).await.unwrap().into_inner();
            let other = Made { id: made.api_key.clone().unwrap().id, key: made.key, api_key: made.api_key.unwrap() };
            let (one, two) = tokio::join!(
                delete(service.client(&survivor.key), &other.id),
                delete(service.client(&other.key), &survivor.id),
            );
            survivor = match (one, two) {
                (Ok(_), Err(status)) => {
                    assert_eq!(refused_for::<()>(Err(status)), "CREDENTIALS_INVALID", "round {round}");
                    survivor
                }
                (Err(status), Ok(_)) => {
                    assert_eq!(refused_for::<()>(Err(status)), "CREDENTIALS_INVALID", "round {round}");
                    other
                }
                (one, two) => panic!("round {round}: {one:?} and {two:?}"),
            };
        }
        assert_eq!(refused_for(delete(service.client(&survivor.key), &survivor.id).await), "LAST_ADMINISTRATOR");
    }
}

on_every_engine! {
    async fn case_36_two_administrators_who_delete_themselves_at_once_leave_one(service: Service) {
        for round in 0..10 {
            let (one, two) = (administrator(&service).await, administrator(&service).await);
            let first = first_administrator(&service).await;
            // The first one steps aside, so that these two are all there is.
            let aside = proto::ApiKey { disabled: true, ..Default::default() };
            update(service.client(&one.key), &first, &["disabled"], aside).await.unwrap();
            let (a, b) = tokio::join!(
                delete(service.client(&one.key), &one.id),
                delete(service.client(&two.key), &two.id),
            );
            let left = match (a, b) {
                (Ok(_), Err(status)) => (two, status),
                (Err(status), Ok(_)) => (one, status),
                (a, b) => panic!("round {round}: {a:?} and {b:?}"),
            };
            assert_eq!(refused_for::<()>(Err(left.1)), "LAST_ADMINISTRATOR", "round {round}");
            let left = left.0;
            update(service.client(&left.key), &first, &["disabled"], proto::ApiKey::default()).await.unwrap();
            delete(service.admin(), &left.id).await.unwrap();
        }
    }
}

on_every_engine! {
    async fn case_36_to_delete_twice_is_fine_and_to_delete_the_unknown_is_not_found(service: Service) {
        let made = service.make_for("acme", &[]).await;
        let first = delete(service.admin(), &made.id).await.unwrap();
        let head = calls::head(&service).await;
        let stale = proto::DeleteRequest { id: made.id.clone(), etag: "\"99\"".into(), ..Default::default() };
        let second = service.admin().delete(stale).await.unwrap().into_inner();
        assert!(second.enforced);
        assert_eq!(second.api_key.unwrap(), first);
        assert_eq!(calls::head(&service).await, head);

        let why = |reason: proto::DeleteReason| proto::DeleteRequest {
            id: made.id.clone(),
            reason: reason.into(),
            ..Default::default()
        };
        let same = service.admin().delete(why(proto::DeleteReason::Unused)).await.unwrap().into_inner();
        assert_eq!(same.api_key.unwrap().delete_reason(), proto::DeleteReason::Unspecified);
        let raised = service.admin().delete(why(proto::DeleteReason::Compromised)).await.unwrap().into_inner();
        let raised = raised.api_key.unwrap();
        assert_eq!(raised.delete_reason(), proto::DeleteReason::Compromised);
        assert_eq!((raised.delete_time, raised.purge_time), (first.delete_time, first.purge_time));
        let lowered = service.admin().delete(why(proto::DeleteReason::Unused)).await.unwrap().into_inner();
        assert_eq!(lowered.api_key.unwrap(), raised);

        insta::assert_snapshot!(refusal(delete(service.admin(), "key_0000000000000000000000").await), @"NotFound KEY_NOT_FOUND: there is no such key within the caller's reach");
    }
}
