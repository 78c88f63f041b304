//! Lease and wait are one invariant: what the database holds, what the migration leaves, and what a row that breaks it does.

use std::time::Duration;

use claviger::{
    app::alarms::Alarm,
    clock::{Clock, SystemClock},
    domain::Time,
    grpc::proto,
    migrations::Migrator,
};
use sea_orm::ConnectionTrait;
use sea_orm_migration::MigratorTrait;

use crate::harness::{Engine, Service, TestStore, app_settings, key_of, process::eventually, replicas::Replicas};

on_every_engine! {
    async fn case_47_no_statement_stores_a_wait_that_is_shorter_than_the_lease_needs(test: TestStore) {
        let by_hand = test.database.by_hand().await;
        let set = async |columns: &str| by_hand.execute_unprepared(&format!("UPDATE feed_head SET {columns}")).await;
        for broken in ["wait_ms = 1049", "lease_ms = 1001", "lease_ms = 499", "lease_ms = 10001, wait_ms = 20000"] {
            set(broken).await.unwrap_err();
        }
        for good in ["lease_ms = 10000, wait_ms = 10500", "lease_ms = 501, wait_ms = 527", "wait_ms = 63000"] {
            set(good).await.unwrap();
        }
    }
}

on_every_engine! {
    async fn a_longer_lease_of_an_earlier_version_is_shortened_and_its_wait_is_kept(test: TestStore) {
        let by_hand = test.database.by_hand().await;
        let steps = u32::try_from(Migrator::migrations().len() - 2).unwrap();
        for (before, after) in [((60_000, 63_000), (10_000, 63_000)), ((60_000, 1), (10_000, 10_500)), ((1, 1), (500, 525))] {
            Migrator::down(&by_hand, Some(steps)).await.unwrap();
            let set = format!("UPDATE feed_head SET lease_ms = {}, wait_ms = {}", before.0, before.1);
            by_hand.execute_unprepared(&set).await.unwrap();
            test.store.schema_migrate().await.unwrap();
            let head = test.store.feed_state().await.unwrap();
            assert!(head.is_lease_valid);
            assert_eq!((head.lease.as_millis(), head.wait.as_millis()), after, "{before:?}");
        }
    }
}

on_every_engine! {
    async fn a_wait_that_is_longer_than_the_lease_needs_is_lowered_once_it_has_passed(service: Service) {
        let by_hand = service.database.by_hand().await;
        by_hand.execute_unprepared("UPDATE feed_head SET wait_ms = 63000").await.unwrap();
        let wait = async || {
            service.app.upkeep().await.unwrap();
            service.app.store().feed_state().await.unwrap().wait
        };
        assert_eq!(wait().await, Duration::from_secs(63));
        service.clock.advance(Duration::from_secs(40));
        assert_eq!(wait().await, Duration::from_secs(63));
        // The lease is set again: what was granted by then has to run out as well.
        by_hand.execute_unprepared("UPDATE feed_head SET lease_changes = lease_changes + 1").await.unwrap();
        assert_eq!(wait().await, Duration::from_secs(63));
        service.clock.advance(Duration::from_millis(62_999));
        assert_eq!(wait().await, Duration::from_secs(63));
        service.clock.advance(Duration::from_millis(1));
        assert_eq!(wait().await, Duration::from_millis(1_050));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_47_a_row_that_breaks_the_invariant_grants_no_lease_and_every_change_waits_in_full() {
    let Some(replicas) = Replicas::start().await else { return };
    let one = replicas.replica().await;
    let made = one.make(key_of("acme", &[])).await;
    one.until_fresh().await;
    let broken = "ALTER TABLE feed_head DROP CONSTRAINT feed_head_lease, DROP CONSTRAINT feed_head_wait; UPDATE feed_head SET \
                  lease_ms = 10000, wait_ms = 1050";
    let by_hand = replicas.database.by_hand().await;
    by_hand.execute_unprepared(broken).await.unwrap();
    eventually("an alarm", || async { (one.app.alarms().raised(Alarm::LeaseInvalid) == 1).then_some(()) }).await;
    assert_eq!(one.app.lease_left(), Duration::ZERO);
    let before = SystemClock.now();
    let answer = one.delete(&made.api_key.unwrap().id, true).await;
    let time = answer.enforce_time.unwrap();
    let enforced = Time::from_timestamp(time.seconds, time.nanos).unwrap();
    assert!(!answer.enforced && enforced >= before.saturating_add(Duration::from_millis(10_500)), "{enforced:?}");
    // Put right, it is trusted again.
    by_hand.execute_unprepared("UPDATE feed_head SET lease_ms = 1000, wait_ms = 1050").await.unwrap();
    one.until_fresh().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wait_counts_from_the_commit_and_not_from_a_stored_time() {
    let mut settings = app_settings();
    settings.freshness.other_replicas = true;
    let Some(service) = Service::start_with(Engine::Postgres, settings).await else { return };
    let made = service.make_for("acme", &[]).await;
    let by_hand = service.database.by_hand().await;
    by_hand.execute_unprepared("BEGIN; SELECT seq FROM feed_head FOR UPDATE").await.unwrap();
    let mut admin = service.admin();
    let request = proto::DeleteRequest { id: made.id.clone(), no_wait: true, ..Default::default() };
    let deleting = tokio::spawn(async move { admin.delete(request).await });
    let waiting = service.database.by_hand().await;
    let sql = "DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND \
               wait_event_type = 'Lock') THEN RAISE EXCEPTION 'none waits'; END IF; END $$";
    eventually("the change waits", || async { waiting.execute_unprepared(sql).await.ok() }).await;
    // The time that it stores is an hour old when it is committed.
    service.clock.advance(Duration::from_hours(1));
    by_hand.execute_unprepared("COMMIT").await.unwrap();
    let answer = deleting.await.unwrap().unwrap().into_inner();
    let time = answer.enforce_time.unwrap();
    let wait = Duration::from_millis(1_050);
    assert_eq!(Time::from_timestamp(time.seconds, time.nanos), Some(service.clock.now().saturating_add(wait)));
    assert!(!answer.enforced);
    // A repeat knows no better from what is stored, and continues the wait that this process knows of.
    service.clock.advance(wait);
    let again = proto::DeleteRequest { id: made.id, ..Default::default() };
    assert!(service.admin().delete(again).await.unwrap().into_inner().enforced);
}
