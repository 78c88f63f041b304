//! When a key was last used: told in time, written down now and then, never lost on a graceful stop.

use std::time::Duration;

use claviger::grpc::proto::{self, DecisionCode};

use crate::{
    calls::{self, get, number, update},
    harness::{
        Engine, Service, after_beginning, key_of,
        process::{Program, admin_key},
    },
};

on_every_engine! {
    async fn the_last_use_is_told_and_changes_nothing_about_the_key(service: Service) {
        let made = service.make(proto::ApiKey { allowed_ips: vec!["192.0.2.0/24".into()], ..key_of("acme", &[]) }).await;
        assert_eq!(get(service.admin(), &made.id).await.unwrap(), made.api_key, "never used");
        service.clock.advance(Duration::from_secs(5));
        assert_eq!(service.validate(&made.key, "198.51.100.1").await.unwrap().code(), DecisionCode::IpNotAllowed);
        assert_eq!(get(service.admin(), &made.id).await.unwrap(), made.api_key, "a refusal is no use");
        assert!(service.validate(&made.key, "::ffff:192.0.2.7").await.unwrap().valid);
        let used = proto::ApiKey {
            last_used_time: Some(after_beginning(Duration::from_secs(5))),
            last_used_ip: "192.0.2.7".into(),
            ..made.api_key.clone()
        };
        assert_eq!(get(service.admin(), &made.id).await.unwrap(), used);
        // Nothing is written on the way of a call.
        assert_eq!(number(&service, "SELECT count(*) FROM key_usage").await, 0);
        let head = calls::head(&service).await;
        service.app.flush_usage().await.unwrap();
        assert_eq!(number(&service, "SELECT count(*) FROM key_usage").await, 2, "this key and its caller's");
        assert_eq!((get(service.admin(), &made.id).await.unwrap(), calls::head(&service).await), (used.clone(), head));
        // A row is written over by a later use only.
        service.clock.advance(Duration::from_secs(60));
        assert!(service.validate(&made.key, "192.0.2.8").await.unwrap().valid);
        service.app.flush_usage().await.unwrap();
        service.clock.set(claviger::domain::Time::from_micros(crate::harness::BEGINNING));
        assert!(service.validate(&made.key, "192.0.2.9").await.unwrap().valid);
        service.app.flush_usage().await.unwrap();
        let listed = service.admin().list(proto::ListRequest::default()).await.unwrap().into_inner().api_keys;
        let listed = listed.iter().find(|key| key.id == made.id).unwrap();
        assert_eq!(listed.last_used_ip, "192.0.2.8");
        let settings = proto::ApiKey { display_name: "x".into(), ..Default::default() };
        let updated = update(service.admin(), &made.id, &["display_name"], settings).await.unwrap();
        assert_eq!(updated.last_used_time, Some(after_beginning(Duration::from_secs(65))));
        assert_eq!(updated.etag, "\"2\"");
    }
}

on_every_engine! {
    async fn uses_are_kept_while_the_database_is_away(service: Service) {
        let made = service.make_for("acme", &[]).await;
        assert!(service.validate(&made.key, "").await.unwrap().valid);
        service.execute_silently("ALTER TABLE key_usage RENAME TO key_usage_away").await;
        assert!(service.app.flush_usage().await.is_err());
        service.execute_silently("ALTER TABLE key_usage_away RENAME TO key_usage").await;
        service.app.flush_usage().await.unwrap();
        let used = get(service.admin(), &made.id).await.unwrap();
        assert_eq!((used.last_used_time, used.last_used_ip), (Some(after_beginning(Duration::ZERO)), String::new()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_stop_loses_no_use() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Program::new(folder.path()).serve();
    let admin = admin_key(folder.path());
    let request = proto::CreateRequest { api_key: Some(key_of("acme", &[])), ..Default::default() };
    let made = serving.client(&admin).create(request).await.unwrap().into_inner();
    let request = proto::ValidateRequest { key: made.key, caller_ip: "192.0.2.1".into(), ..Default::default() };
    assert!(serving.client(&admin).validate(request).await.unwrap().into_inner().valid);
    assert_eq!(serving.stop().code, Some(0));
    let again = Program::new(folder.path()).serve();
    let used = get(again.client(&admin), &made.api_key.unwrap().id).await.unwrap();
    assert!(used.last_used_time.is_some());
    assert_eq!(used.last_used_ip, "192.0.2.1");
}
