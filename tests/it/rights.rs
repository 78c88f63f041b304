//! What a caller may do to its own key, what it can grant, and that its rights are those of this moment.

use std::time::Duration;

use claviger::{domain::scope, grpc::proto};
use tonic::Status;

use crate::{
    calls::{self, delete, get, refusal, refused_for, rotate, update, without_use},
    harness::{Engine, Service, key_of, reason},
};

async fn create(service: &Service, caller: &str, api_key: proto::ApiKey) -> Result<proto::ApiKey, Status> {
    let request = proto::CreateRequest { api_key: Some(api_key), ..Default::default() };
    Ok(service.client(caller).create(request).await?.into_inner().api_key.unwrap())
}

fn with_scopes(scopes: &[&str]) -> proto::ApiKey {
    proto::ApiKey { scopes: scopes.iter().map(ToString::to_string).collect(), ..Default::default() }
}

on_every_engine! {
    async fn one_s_own_key_can_be_got_and_deleted_without_any_scope(service: Service) {
        let made = service.make_for("acme", &[]).await;
        let sibling = service.make_for("acme", &[]).await;
        let own = || service.client(&made.key);
        assert_eq!(without_use(get(own(), "self").await.unwrap()), made.api_key);
        assert_eq!(without_use(get(own(), &made.id).await.unwrap()), made.api_key);
        insta::assert_snapshot!(refusal(get(own(), &sibling.id).await), @"PermissionDenied SCOPE_MISSING: the caller's key lacks the scope claviger:keys.read");
        insta::assert_snapshot!(refusal(delete(own(), &sibling.id).await), @"PermissionDenied SCOPE_MISSING: the caller's key lacks the scope claviger:keys.write");
        assert_eq!(refused_for(rotate(own(), &made.id, 900).await), "SCOPE_MISSING");
        assert_eq!(refused_for(update(own(), &made.id, &["labels"], proto::ApiKey::default()).await), "SCOPE_MISSING");
        let guarded = proto::DeleteRequest {
            id: made.id.clone(),
            merchant_username: "other".into(),
            ..Default::default()
        };
        assert_eq!(refused_for(own().delete(guarded).await), "KEY_NOT_FOUND");
        assert_eq!(delete(own(), &made.id).await.unwrap().state(), proto::State::Deleted);
        assert_eq!(refused_for(get(own(), "self").await), "CREDENTIALS_INVALID");
    }
}

on_every_engine! {
    async fn a_key_that_rotates_itself_keeps_its_old_secret_for_a_quarter_of_an_hour(service: Service) {
        let made = service.make_for("acme", &[scope::KEYS_WRITE]).await;
        insta::assert_snapshot!(refusal(rotate(service.client(&made.key), &made.id, 899).await), @"FailedPrecondition OVERLAP_REQUIRED: a key that rotates itself needs an overlap of at least 15 minutes, or a lost answer would lock its holder out");
        let rotated = rotate(service.client(&made.key), &made.id, 900).await.unwrap();
        service.clock.advance(Duration::from_secs(899));
        assert!(get(service.client(&made.key), "self").await.is_ok());
        service.clock.advance(Duration::from_secs(1));
        assert_eq!(refused_for(get(service.client(&made.key), "self").await), "CREDENTIALS_INVALID");
        assert!(get(service.client(&rotated.key), "self").await.is_ok());
    }
}

on_every_engine! {
    async fn a_caller_grants_only_the_reserved_scopes_that_it_holds(service: Service) {
        let writer = service.make_for("acme", &[scope::KEYS_WRITE, scope::VALIDATE]).await.key;
        let target = create(&service, &writer, key_of("acme", &["payments:read", scope::VALIDATE])).await.unwrap();
        for wanted in [scope::KEYS_READ, scope::AUDIT_READ, scope::ADMIN, scope::ALL_MERCHANTS] {
            let outcome = create(&service, &writer, key_of("acme", &[wanted])).await;
            assert_eq!(refused_for(outcome), "RESERVED_SCOPE_NOT_HELD", "{wanted}");
            let outcome = update(service.client(&writer), &target.id, &["scopes"], with_scopes(&[wanted])).await;
            assert_eq!(refused_for(outcome), "RESERVED_SCOPE_NOT_HELD", "{wanted}");
        }
        let several = key_of("acme", &[scope::ADMIN, "payments:read", scope::KEYS_READ]);
        let outcome = create(&service, &writer, several).await;
        insta::assert_snapshot!(refusal(outcome), @"PermissionDenied RESERVED_SCOPE_NOT_HELD: only a caller that holds these scopes itself may grant them or change a key that has them: claviger:admin claviger:keys.read");
        // A right that was once granted cannot be taken away by somebody who does not hold it.
        let holder = service.make_for("acme", &[scope::KEYS_READ]).await;
        let outcome = update(service.client(&writer), &holder.id, &["scopes"], with_scopes(&[])).await;
        assert_eq!(refused_for(outcome), "RESERVED_SCOPE_NOT_HELD");
    }
}

on_every_engine! {
    async fn an_administrator_of_one_merchant_grants_all_but_the_reach_over_all(service: Service) {
        let admin = service.make_for("acme", &[scope::ADMIN]).await.key;
        let granted = [scope::KEYS_READ, scope::KEYS_WRITE, scope::VALIDATE, scope::AUDIT_READ, scope::ADMIN];
        create(&service, &admin, key_of("acme", &granted)).await.unwrap();
        let outcome = create(&service, &admin, key_of("acme", &[scope::ALL_MERCHANTS])).await;
        insta::assert_snapshot!(refusal(outcome), @"PermissionDenied RESERVED_SCOPE_NOT_HELD: only a caller that holds these scopes itself may grant them or change a key that has them: claviger:all-merchants");
        let own = get(service.client(&admin), "self").await.unwrap();
        let wider = with_scopes(&[scope::ADMIN, scope::ALL_MERCHANTS]);
        let outcome = update(service.client(&admin), &own.id, &["scopes"], wider).await;
        assert_eq!(refused_for(outcome), "RESERVED_SCOPE_NOT_HELD");
    }
}

on_every_engine! {
    async fn create_without_a_merchant_means_the_caller_s_own(service: Service) {
        let writer = service.make_for("acme", &[scope::KEYS_WRITE]).await.key;
        let made = create(&service, &writer, proto::ApiKey::default()).await.unwrap();
        assert_eq!(made.merchant_username, "acme");
        insta::assert_snapshot!(refusal(create(&service, &writer, key_of("other", &[])).await), @"PermissionDenied MERCHANT_OUT_OF_REACH: the caller reaches the keys of its own merchant only; other merchants need the scope claviger:all-merchants");
    }
}

on_every_engine! {
    async fn a_caller_is_judged_anew_on_each_call(service: Service) {
        let caller = service.make_for("acme", &[scope::KEYS_READ]).await;
        let target = service.make_for("acme", &[]).await;
        let ask = || get(service.client(&caller.key), &target.id);
        let change = async |mask: &str, settings| update(service.admin(), &caller.id, &[mask], settings).await;
        assert!(ask().await.is_ok());

        change("scopes", with_scopes(&[scope::VALIDATE])).await.unwrap();
        assert_eq!(refused_for(ask().await), "SCOPE_MISSING");
        change("scopes", with_scopes(&[scope::KEYS_READ])).await.unwrap();
        assert!(ask().await.is_ok());

        change("disabled", proto::ApiKey { disabled: true, ..Default::default() }).await.unwrap();
        assert_eq!(refused_for(ask().await), "CREDENTIALS_INVALID");
        change("disabled", proto::ApiKey::default()).await.unwrap();
        assert!(ask().await.is_ok());

        let elsewhere = proto::ApiKey { allowed_ips: vec!["192.0.2.1".into()], ..Default::default() };
        change("allowed_ips", elsewhere).await.unwrap();
        insta::assert_snapshot!(refusal(ask().await), @"PermissionDenied PEER_NOT_ALLOWED: the caller's key may not be used from the address of this connection");
        change("allowed_ips", proto::ApiKey::default()).await.unwrap();
        assert!(ask().await.is_ok());

        let ttl = Some(prost_types::Duration { seconds: 60, nanos: 0 });
        change("ttl", proto::ApiKey { ttl, ..Default::default() }).await.unwrap();
        service.clock.advance(Duration::from_secs(60));
        assert_eq!(refused_for(ask().await), "CREDENTIALS_INVALID");
        change("expire_time", proto::ApiKey::default()).await.unwrap();
        assert!(ask().await.is_ok());

        rotate(service.admin(), &caller.id, 0).await.unwrap();
        assert_eq!(refused_for(ask().await), "CREDENTIALS_INVALID");
    }
}

on_every_engine! {
    async fn a_deleted_caller_s_next_call_is_refused(service: Service) {
        let caller = service.make_for("acme", &[scope::ADMIN]).await;
        assert!(get(service.client(&caller.key), "self").await.is_ok());
        delete(service.admin(), &caller.id).await.unwrap();
        let before = calls::head(&service).await;
        insta::assert_snapshot!(refusal(create(&service, &caller.key, key_of("acme", &[])).await), @"Unauthenticated CREDENTIALS_INVALID: the key string in `authorization` is not one that is accepted now");
        assert_eq!(calls::head(&service).await, before);
    }
}

on_every_engine! {
    async fn case_51_a_key_that_rotates_itself_is_never_locked_out(service: Service) {
        let made = service.make(proto::ApiKey {
            scopes: vec![scope::KEYS_WRITE.into()],
            ..key_of("acme", &[])
        }).await;
        let rotation = |request_id: &str| proto::RotateRequest {
            id: made.id.clone(),
            overlap: Some(prost_types::Duration { seconds: 900, nanos: 0 }),
            request_id: request_id.into(),
            no_wait: true,
            ..Default::default()
        };
        let by = |key: &str, request_id: &str| {
            let (mut client, request) = (service.client(key), rotation(request_id));
            async move { client.rotate(request).await.map(tonic::Response::into_inner) }
        };
        // Two at once: one is made.
        let (one, two) = tokio::join!(by(&made.key, "first-rotation-1"), by(&made.key, "first-rotation-2"));
        let (request_id, rotated, other) = match (one, two) {
            (Ok(one), Err(two)) => ("first-rotation-1", one, two),
            (Err(one), Ok(two)) => ("first-rotation-2", two, one),
            _ => panic!("not exactly one was made"),
        };
        assert_eq!((other.code(), reason(&other).as_str()), (tonic::Code::FailedPrecondition, "SECRET_NOT_CURRENT"));
        // The answer was lost: the secret that is being retired asks for it again, and for no other.
        let again = by(&made.key, request_id).await.unwrap();
        assert!(again.replayed);
        assert_eq!(again.key, rotated.key);
        let new = by(&made.key, "second-rotation-1").await.err().unwrap();
        assert_eq!(reason(&new), "SECRET_NOT_CURRENT");
        let soon = by(&rotated.key, "second-rotation-1").await.err().unwrap();
        assert_eq!((soon.code(), reason(&soon).as_str()), (tonic::Code::FailedPrecondition, "OVERLAP_TOO_YOUNG"));
        for key in [&made.key, &rotated.key] {
            assert_eq!(service.decision(key).await, proto::DecisionCode::Valid);
        }
        service.clock.advance(std::time::Duration::from_secs(900));
        by(&rotated.key, "second-rotation-2").await.map(drop).unwrap();
    }
}
