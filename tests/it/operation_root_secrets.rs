//! Root secrets that other replicas activated or removed, hashes that are renewed, keys that are purged.

use std::{sync::Arc, time::Duration};

use claviger::{
    app::{App, Question, Rights, offline_key},
    domain::{
        Caller, Time,
        decision::Decision,
        ip_rules::CallerIp,
        root_secret::{RootSecret, RootState},
        secret_hash::Profile,
    },
    grpc::proto::{self, DecisionCode},
    store::RootRow,
};
use tonic::Code;

use crate::{
    calls::{sealed_replays, without_use},
    harness::{
        Engine, Service, app_settings,
        dump::{number, texts},
        key_of,
        process::eventually,
        reason, root,
    },
};

/// Notes a root secret in the database, as another replica would.
async fn activate(service: &Service, root: &RootSecret, state: RootState) {
    let row = RootRow { id: root.id(), fingerprint: *root.fingerprint(), state };
    service.app.store().root_secret_insert(&row, service.app.now()).await.unwrap();
}

async fn validates(app: &Arc<App>, caller: &Caller, key: &str) -> bool {
    let question = Question { key, caller_ip: None, required_scopes: &[], min_revision: None };
    matches!(app.validate(caller, question).await.unwrap().decision, Decision::Valid(_))
}

on_every_engine! {
    async fn a_key_string_of_a_root_secret_that_is_not_mounted_here_is_undecided(service: Service) {
        let elsewhere = root('Z', 9);
        let key = offline_key(service.app.key_format(), &elsewhere).unwrap();
        assert_eq!(service.decision(key.reveal()).await, DecisionCode::Malformed);
        activate(&service, &elsewhere, RootState::Accepted).await;
        let status = eventually("it is known", || async { service.validate(key.reveal(), "").await.err() }).await;
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "ROOT_SECRET_NOT_MOUNTED"));
        insta::allow_duplicates! { insta::assert_snapshot!(status.message(), @"the root secret `Z` is in use but not mounted on this replica"); }
        // A caller of ours with such a key is neither let in nor refused.
        let status = service.client(key.reveal()).list(proto::ListRequest::default()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert_eq!(service.execute("UPDATE root_secret SET state = 3 WHERE k = 'Z'").await, 1);
        let refused = || async { (service.validate(key.reveal(), "").await.ok()?.code() == DecisionCode::Malformed).then_some(()) };
        eventually("it is removed", refused).await;
    }
}

on_every_engine! {
    async fn a_root_secret_that_became_the_active_one_elsewhere_is_known_here(service: Service) {
        let made = service.make_for("acme", &[]).await;
        let next = root('Z', 9);
        let key = offline_key(service.app.key_format(), &next).unwrap();
        assert_eq!(service.execute("UPDATE root_secret SET state = 2").await, 1);
        activate(&service, &next, RootState::Active).await;
        let status = eventually("it is known", || async { service.validate(key.reveal(), "").await.err() }).await;
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "ROOT_SECRET_NOT_MOUNTED"));
        assert_eq!(service.decision(&made.key).await, DecisionCode::Valid);
        // What would have to be made under it cannot be made here.
        let request = proto::CreateRequest { api_key: Some(key_of("acme", &[])), ..Default::default() };
        let status = service.admin().create(request).await.err().unwrap();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "ROOT_SECRET_NOT_MOUNTED"));
    }
}

on_every_engine! {
    async fn a_hash_of_another_profile_is_renewed_on_use(service: Service) {
        let made = service.make_for("acme", &[]).await;
        let by_hand = service.database.by_hand().await;
        let profile = "SELECT profile || ' ' || substr(phc, 1, 30) AS n FROM credential JOIN api_key ON api_key.id = key_id \
                       WHERE merchant_username = 'acme'";
        assert_eq!(texts(&by_hand, profile).await, ["random256 $argon2id$v=19$m=1024,t=1,p=1$"]);
        let head = service.app.store().feed_head().await.unwrap();
        let mut settings = app_settings();
        settings.profile = Profile::Owasp;
        let store = service.database.open().await;
        let later = App::start(store, service.clock.clone(), settings, vec![root('0', 7)]).await.unwrap();
        let caller = later.authenticate(&service.admin, CallerIp::new([127, 0, 0, 1].into()), Rights::Read).await.unwrap();
        assert!(validates(&later, &caller, &made.key).await);
        later.drain().await;
        assert_eq!(texts(&by_hand, profile).await, ["owasp $argon2id$v=19$m=19456,t=2,p=1"]);
        // No work is left to do for the same key, here; elsewhere it is proved anew, and renewed back.
        let runs = later.hasher().runs();
        assert!(validates(&later, &caller, &made.key).await);
        assert_eq!(later.hasher().runs(), runs);
        assert_eq!(service.decision(&made.key).await, DecisionCode::Valid);
        let request = proto::GetRequest { id: made.id.clone(), ..Default::default() };
        let now = service.admin().get(request).await.unwrap().into_inner().api_key.unwrap();
        assert_eq!(without_use(now), made.api_key);
        assert_eq!(service.app.store().feed_head().await.unwrap(), head);
        assert_eq!(number(&by_hand, "SELECT count(*) AS n FROM audit_log").await, head.seq());
    }
}

on_every_engine! {
    async fn a_deleted_key_is_forgotten_after_thirty_days(service: Service) {
        let request = proto::CreateRequest { api_key: Some(key_of("acme", &[])), request_id: "0123456789abcdef".into() };
        let made = service.admin().create(request.clone()).await.unwrap().into_inner();
        let id = made.api_key.unwrap().id;
        let delete = proto::DeleteRequest { id: id.clone(), ..Default::default() };
        service.admin().delete(delete).await.unwrap();
        let get = || {
            let mut client = service.admin();
            let request = proto::GetRequest { id: id.clone(), ..Default::default() };
            async move { client.get(request).await }
        };
        service.clock.advance(Duration::from_hours(30 * 24) - Duration::from_micros(1));
        service.app.upkeep().await.unwrap();
        assert!(get().await.is_ok());
        assert_eq!(service.decision(&made.key).await, DecisionCode::Deleted);
        service.clock.advance(Duration::from_micros(1));
        service.app.upkeep().await.unwrap();
        assert_eq!(reason(&get().await.unwrap_err()), "KEY_NOT_FOUND");
        assert_eq!(service.decision(&made.key).await, DecisionCode::NotFound);
        let by_hand = service.database.by_hand().await;
        let of_acme = |table: &str| format!("SELECT count(*) AS n FROM {table} WHERE merchant_username = 'acme'");
        assert_eq!(number(&by_hand, &of_acme("api_key")).await, 0);
        assert_eq!(number(&by_hand, "SELECT count(*) AS n FROM credential").await, 1);
        assert_eq!(number(&by_hand, "SELECT count(*) AS n FROM completed_request").await, 0);
        // Made, deleted, purged: the log keeps what the tables forget, and the feed has a number for each.
        assert_eq!(number(&by_hand, &of_acme("audit_log")).await, 3);
        assert_eq!(number(&by_hand, "SELECT count(*) AS n FROM audit_log WHERE actor_kind = 4").await, 1);
        let head = service.app.store().feed_head().await.unwrap().seq();
        assert_eq!(number(&by_hand, "SELECT count(*) AS n FROM change_log").await, head);
        // A second round finds nothing to do, and the request id is free again.
        service.app.upkeep().await.unwrap();
        assert_eq!(service.app.store().feed_head().await.unwrap().seq(), head);
        let again = service.admin().create(request).await.unwrap().into_inner();
        assert!(!again.replayed && again.api_key.unwrap().id != id);
    }
}

on_every_engine! {
    async fn a_key_string_that_may_no_longer_be_shown_is_erased(service: Service) {
        let request = proto::CreateRequest { api_key: Some(key_of("acme", &[])), request_id: "0123456789abcdef".into() };
        let made = service.admin().create(request.clone()).await.unwrap().into_inner();
        service.clock.advance(Duration::from_mins(15) - Duration::from_micros(1));
        service.app.upkeep().await.unwrap();
        assert_eq!(sealed_replays(&service).await, 1);
        let again = service.admin().create(request.clone()).await.unwrap().into_inner();
        assert_eq!((again.replayed, again.key), (true, made.key.clone()));
        service.clock.advance(Duration::from_micros(2));
        service.app.upkeep().await.unwrap();
        assert_eq!(sealed_replays(&service).await, 0);
        let status = service.admin().create(request).await.err().unwrap();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::AlreadyExists, "REQUEST_ID_EXPIRED"));
        assert_eq!(service.decision(&made.key).await, DecisionCode::Valid);
    }
}

on_every_engine! {
    async fn case_24_upkeep_is_at_home_in_every_year(service: Service) {
        let made = service.make_for("acme", &[]).await;
        for year in [-31_536_000_i64, 0, 4_291_747_200, i64::MAX / 1_000_000, i64::MIN / 1_000_000] {
            service.clock.set(Time::from_micros(year.saturating_mul(1_000_000)));
            service.app.upkeep().await.unwrap();
            assert_eq!(service.decision(&made.key).await, DecisionCode::Valid);
        }
    }
}
