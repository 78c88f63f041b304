//! The states of root secrets are under the lease: removed ones are refused once the wait has passed, new ones are known in
//! time, and nothing new is stored under one that is not active.

use std::{sync::Arc, time::Duration};

use claviger::{
    app::offline_key,
    clock::SystemClock,
    domain::{Error, error::Unavailable, root_secret::RootState},
    grpc::proto::{self, DecisionCode},
    store::RootRow,
};
use sea_orm::ConnectionTrait;
use tokio::time::{Instant, sleep_until};

use crate::harness::{
    Engine, Service, key_of,
    process::eventually,
    proxy::{Door, Proxy},
    replicas::{Replica, Replicas},
    root,
};

const WAIT: Duration = Duration::from_millis(1_050);
/// Changes states as `root-secrets` has to: under the lock of the feed.
const SECOND_ACTIVE: &str = "BEGIN; SELECT seq FROM feed_head FOR UPDATE; UPDATE root_secret SET state = 2 WHERE k = '0'; \
                             UPDATE root_secret SET state = 1 WHERE k = '1'; COMMIT";

/// Under which root secret a key string was made.
fn root_of(key: &str) -> char {
    key.split('_').nth(2).unwrap().chars().next().unwrap()
}

/// Notes the second root secret as accepted, and waits until a replica knows it.
async fn accept_second(replica: &Replica) {
    let second = root('1', 9);
    let row = RootRow { id: second.id(), fingerprint: *second.fingerprint(), state: RootState::Accepted };
    replica.app.store().root_secret_insert(&row, replica.app.now()).await.unwrap();
    // Malformed as long as its root secret is unknown.
    let key = offline_key(replica.app.key_format(), &second).unwrap();
    eventually("the second root secret is known", || async {
        (replica.validate(key.reveal()).await.ok()?.code() == DecisionCode::NotFound).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_48_no_replica_accepts_a_key_string_of_a_removed_root_secret_after_the_wait() {
    let Some(replicas) = Replicas::start().await else { return };
    let (proxy, url) = Proxy::before(replicas.database.url()).await;
    let roots = || vec![root('0', 7), root('1', 9)];
    let near = replicas.replica_mounting(replicas.database.url(), Arc::new(SystemClock), roots()).await;
    let far = replicas.replica_mounting(&url, Arc::new(SystemClock), roots()).await;
    accept_second(&near).await;
    let old = near.make(key_of("acme", &[])).await.key;
    assert_eq!(root_of(&old), '0');
    let by_hand = replicas.database.by_hand().await;
    by_hand.execute_unprepared(SECOND_ACTIVE).await.unwrap();
    // A caller whose own key string does not depend on the root secret that is removed.
    let caller = near.make(key_of("acme", &["claviger:validate"])).await.key;
    assert_eq!(root_of(&caller), '1');
    for replica in [&near, &far] {
        replica.until_fresh().await;
        eventually("it answers from its cache", || async {
            (replica.validate_as(&caller, &old).await.ok()?.code() == DecisionCode::Valid).then_some(())
        })
        .await;
    }
    proxy.set(Door::Silent);
    by_hand.execute_unprepared("UPDATE root_secret SET state = 3 WHERE k = '0'").await.unwrap();
    sleep_until(Instant::now() + WAIT).await;
    assert_eq!(near.validate_as(&caller, &old).await.unwrap().code(), DecisionCode::Malformed);
    for _ in 0..3 {
        let status = far.validate_as(&caller, &old).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
    }
    proxy.set(Door::Open);
    let refused =
        || async { (far.validate_as(&caller, &old).await.ok()?.code() == DecisionCode::Malformed).then_some(()) };
    eventually("it refuses", refused).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_64_a_key_made_under_a_root_secret_activated_a_moment_ago_is_valid_on_every_replica() {
    let Some(replicas) = Replicas::start().await else { return };
    let roots = || vec![root('0', 7), root('1', 9)];
    let url = replicas.database.url();
    let one = replicas.replica_mounting(url, Arc::new(SystemClock), roots()).await;
    let two = replicas.replica_mounting(url, Arc::new(SystemClock), roots()).await;
    accept_second(&one).await;
    sleep_until(Instant::now() + WAIT).await;
    replicas.database.by_hand().await.execute_unprepared(SECOND_ACTIVE).await.unwrap();
    // This replica may not know it yet: what it made under the one before is not stored.
    let made = one.make(key_of("acme", &[])).await;
    assert_eq!(root_of(&made.key), '1');
    for replica in [&one, &two] {
        assert_eq!(replica.decision(&made.key).await, DecisionCode::Valid);
    }
}

on_every_engine! {
    async fn no_secret_is_stored_under_a_root_secret_that_is_not_active(service: Service) {
        let made = service.make_for("acme", &[]).await;
        // As another replica would, in the moment after a secret was made here.
        let by_hand = service.database.by_hand().await;
        by_hand.execute_unprepared("UPDATE root_secret SET state = 2").await.unwrap();
        let create = proto::CreateRequest { api_key: Some(key_of("acme", &[])), ..Default::default() };
        let status = service.admin().create(create).await.err().unwrap();
        assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
        let rotate = proto::RotateRequest { id: made.id.clone(), ..Default::default() };
        let status = service.admin().rotate(rotate).await.err().unwrap();
        assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
        assert_eq!(service.decision(&made.key).await, DecisionCode::Valid, "nothing was changed");
    }
}

on_every_engine! {
    async fn a_binary_that_is_too_old_for_the_database_refuses_changes_ends_its_lease_and_ends(service: Service) {
        let mut service = service;
        let by_hand = service.database.by_hand().await;
        by_hand.execute_unprepared("UPDATE schema_version SET oldest_binary = 99").await.unwrap();
        let store = service.database.open().await;
        let numbered = store.begin().await.unwrap().number().await;
        assert!(matches!(numbered.err(), Some(Error::Unavailable(Unavailable::Draining))));
        let ended = service.ended().await.unwrap_err();
        assert!(ended.to_string().contains("schema 99"), "{ended}");
        assert_eq!(service.app.lease_left(), Duration::ZERO);
    }
}
