//! Every RPC of every service, tried with nothing, with each scope alone, from another merchant, and on a key that holds
//! more than the caller. An RPC that is missing from the table here is a failure.

mod table;

use std::collections::BTreeSet;

use claviger::{
    domain::scope,
    grpc::proto::{self, DecisionCode},
};
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::Code;

use self::table::{About, Subject, table};
use crate::{
    calls,
    harness::{Engine, Service},
};

/// RPCs that need no key, and why. This list may only shrink.
const OPEN: [(&str, &str); 4] = [
    ("grpc.health.v1.Health/Check", "an orchestrator has no key; it tells nothing but whether the service works"),
    ("grpc.health.v1.Health/Watch", "as Check"),
    ("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "shows the proto files, which are public"),
    ("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "as v1, for older clients"),
];

/// A new key of `acme` that holds `scopes`, to be asked about.
async fn subject(service: &Service, scopes: &[&str]) -> Subject {
    let made = service.make_for("acme", scopes).await;
    Subject { id: made.id, key: made.key, merchant: "acme".into(), guard: String::new() }
}

#[test]
fn no_rpc_is_missing_from_the_table() {
    let sets = [
        proto::DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let mut served = BTreeSet::new();
    for set in sets {
        for file in FileDescriptorSet::decode(set).unwrap().file {
            for service in &file.service {
                served.extend(
                    service.method.iter().map(|rpc| format!("{}.{}/{}", file.package(), service.name(), rpc.name())),
                );
            }
        }
    }
    let tabled = table().into_iter().map(|rpc| rpc.path.to_owned());
    let open = OPEN.iter().map(|(path, _)| (*path).to_owned());
    assert_eq!(served, tabled.chain(open).collect());
}

on_every_engine! {
    async fn case_10_a_caller_without_one_clear_key_string_is_not_authenticated_in_any_rpc(service: Service) {
        let (admin, other) = (&service.admin, service.make_for("acme", &["claviger:admin"]).await.key);
        let bearer = format!("Bearer {admin}");
        let headers: [&[String]; 9] = [
            &[],
            &[bearer.clone(), bearer.clone()],
            &[bearer.clone(), format!("Bearer {other}")],
            &[bearer.clone(), "Basic eDp5".into()],
            &["Bearer".into()],
            &["Bearer ".into()],
            std::slice::from_ref(admin),
            &[format!("Basic {admin}")],
            &[format!("Bearer {admin}, Bearer {admin}")],
        ];
        let subject = subject(&service, &[]).await;
        let before = calls::head(&service).await;
        for rpc in table() {
            for headers in headers {
                let answer = rpc.ask(&service, headers, &subject).await;
                assert!(answer.starts_with("Unauthenticated CREDENTIALS_"), "{} {headers:?}: {answer}", rpc.path);
            }
            assert_eq!(rpc.ask(&service, &[], &subject).await, "Unauthenticated CREDENTIALS_MISSING", "{}", rpc.path);
            let cut = vec![bearer[..bearer.len() - 1].to_owned()];
            assert_eq!(rpc.ask(&service, &cut, &subject).await, "Unauthenticated CREDENTIALS_INVALID", "{}", rpc.path);
        }
        assert_eq!(calls::head(&service).await, before);
    }
}

on_every_engine! {
    async fn each_scope_alone_allows_what_is_documented_and_nothing_else(service: Service) {
        for held in scope::RESERVED.map(Some).into_iter().chain([None]) {
            let scopes: Vec<&str> = held.into_iter().chain(["payments:read"]).collect();
            let caller = service.make_for("acme", &scopes).await.key;
            for rpc in table() {
                let subject = subject(&service, &[]).await;
                let before = calls::head(&service).await;
                let may = held == Some(rpc.scope) || held == Some(scope::ADMIN);
                let expected = if may { rpc.granted() } else { "PermissionDenied SCOPE_MISSING" };
                assert_eq!(rpc.ask_as(&service, &caller, &subject).await, expected, "{} with {held:?}", rpc.path);
                // Whoever may not learns nothing about what there is.
                let absent = Subject { id: "key_0000000000000000000000".into(), key: "no key".into(), ..subject };
                if !may {
                    assert_eq!(rpc.ask_as(&service, &caller, &absent).await, expected, "{} with {held:?}", rpc.path);
                    assert_eq!(calls::head(&service).await, before, "{} with {held:?}", rpc.path);
                }
            }
        }
    }
}

on_every_engine! {
    async fn case_32_another_merchant_s_administrator_finds_nothing_warm_or_cold(service: Service) {
        let caller = service.make_for("other", &["claviger:admin"]).await.key;
        for warm in [false, true] {
            for rpc in table() {
                for guard in ["", "acme", "other"] {
                    let subject = Subject { guard: guard.into(), ..subject(&service, &[]).await };
                    if warm {
                        assert_eq!(service.decision(&subject.key).await, DecisionCode::Valid);
                    }
                    let before = calls::head(&service).await;
                    let expected = match rpc.about {
                        About::Merchant => "PermissionDenied MERCHANT_OUT_OF_REACH",
                        About::Key | About::KeyToChange => "NotFound KEY_NOT_FOUND",
                        About::KeyString => "NotFound",
                    };
                    for _ in 0..2 {
                        let answer = rpc.ask_as(&service, &caller, &subject).await;
                        assert_eq!(answer, expected, "{} warm: {warm}, guard: {guard:?}", rpc.path);
                    }
                    assert_eq!(calls::head(&service).await, before, "{} changed something", rpc.path);
                }
            }
        }
    }
}

on_every_engine! {
    async fn a_guard_that_names_another_merchant_finds_nothing_although_the_caller_reaches_the_key(service: Service) {
        for rpc in table().into_iter().filter(|rpc| matches!(rpc.about, About::Key | About::KeyToChange)) {
            let subject = Subject { guard: "other".into(), ..subject(&service, &[]).await };
            assert_eq!(rpc.ask_as(&service, &service.admin, &subject).await, "NotFound KEY_NOT_FOUND", "{}", rpc.path);
            let right = Subject { guard: "acme".into(), ..subject };
            assert_eq!(rpc.ask_as(&service, &service.admin, &right).await, "OK", "{}", rpc.path);
        }
    }
}

on_every_engine! {
    async fn case_32_a_key_that_holds_more_than_the_caller_can_be_read_but_not_changed(service: Service) {
        let holds = [scope::KEYS_READ, scope::KEYS_WRITE, scope::VALIDATE];
        let caller = service.make_for("acme", &holds).await.key;
        for held in scope::RESERVED {
            for rpc in table() {
                let subject = subject(&service, &[held]).await;
                let before = calls::head(&service).await;
                let refused = rpc.about == About::KeyToChange && !holds.contains(&held);
                let expected = if refused { "PermissionDenied RESERVED_SCOPE_NOT_HELD" } else { rpc.granted() };
                assert_eq!(rpc.ask_as(&service, &caller, &subject).await, expected, "{} holds {held}", rpc.path);
                if refused {
                    assert_eq!(calls::head(&service).await, before, "{} changed something", rpc.path);
                }
            }
        }
    }
}

on_every_engine! {
    async fn what_is_open_by_design_answers_without_a_key(service: Service) {
        let mut health = tonic_health::pb::health_client::HealthClient::new(service.channel());
        let asked = tonic_health::pb::HealthCheckRequest { service: "claviger.v1.ApiKeyService".into() };
        let answer = health.check(asked).await.unwrap().into_inner();
        assert_eq!(answer.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
        let unknown = tonic_health::pb::HealthCheckRequest { service: "no.such.Service".into() };
        assert_eq!(health.check(unknown).await.unwrap_err().code(), Code::NotFound);
    }
}
