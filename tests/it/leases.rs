//! Leases that run out: a database that is silent, a process that stood still, a poller that panics.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use claviger::{
    app::freshness::State,
    clock::{Clock, ManualClock, SystemClock, Uptime},
    domain::Time,
    grpc::proto::{self, DecisionCode},
};
use tonic::Code;
use tonic_types::StatusExt;

use crate::{
    calls::delete,
    harness::{
        BEGINNING, Engine, Service, key_of,
        process::{Program, eventually, write},
        proxy::{Door, Proxy},
        reason,
        replicas::Replicas,
    },
};

on_every_engine! {
    async fn when_the_lease_has_run_out_every_answer_is_read(service: Service) {
        let made = service.make_for("acme", &[]).await;
        assert_eq!(service.decision(&made.key).await, DecisionCode::Valid);
        // Longer than any lease, and shorter than the poller needs to notice.
        service.clock.pass(Duration::from_secs(30));
        let mut rereads = service.app.freshness().rereads();
        while rereads == service.app.freshness().rereads() {
            // The poller was faster: once more.
            service.clock.pass(Duration::from_secs(30));
            assert_eq!(service.decision(&made.key).await, DecisionCode::Valid);
        }
        rereads = service.app.freshness().rereads();
        service.app.freshness().poke();
        eventually("a poll grants another lease", || async {
            (service.app.freshness_state() == State::Fresh).then_some(())
        })
        .await;
        assert!(service.app.freshness().rereads() >= rereads);
        service.until_warm(&made.key).await;
    }
}

on_every_engine! {
    async fn case_24_a_wall_clock_that_jumps_does_not_touch_the_lease(service: Service) {
        let made = service.make_for("acme", &[]).await;
        service.until_warm(&made.key).await;
        let work = service.work();
        for micros in [BEGINNING - 3_600_000_000, BEGINNING + 3_600_000_000, -1, 4_300_000_000_000_000] {
            service.clock.set(Time::from_micros(micros));
            assert_eq!(service.decision(&made.key).await, DecisionCode::Valid);
            assert_eq!(service.app.freshness_state(), State::Fresh);
        }
        assert_eq!(service.work(), work);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_21_a_database_that_accepts_and_never_answers_is_not_believed_for_longer_than_a_lease() {
    let Some(replicas) = Replicas::start().await else { return };
    let (proxy, url) = Proxy::before(replicas.database.url()).await;
    let near = replicas.replica().await;
    let far = replicas.replica_with(&url, Arc::new(SystemClock)).await;
    let made = near.make(key_of("acme", &[])).await;
    far.until_fresh().await;
    assert_eq!(far.decision(&made.key).await, DecisionCode::Valid);
    proxy.set(Door::Silent);
    // Answered as enforced by the replica that has a database: the other one cannot know, and does not say VALID.
    assert!(near.delete(&made.api_key.unwrap().id, false).await.enforced);
    assert_ne!(far.app.freshness_state(), State::Fresh);
    for _ in 0..5 {
        let began = Instant::now();
        let status = far.validate(&made.key).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));
        assert!(status.get_details_retry_info().is_some());
        // A quarter of a second, and what a busy machine adds.
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
    assert!(far.app.freshness().shed() >= 5);
    eventually("it is blind", || async { (far.app.freshness_state() == State::Blind).then_some(()) }).await;
    proxy.set(Door::Open);
    far.until_fresh().await;
    assert_eq!(far.decision(&made.key).await, DecisionCode::Deleted);
}

/// A clock that panics once when it is told to.
struct TrippingClock(ManualClock, AtomicBool);

impl Clock for TrippingClock {
    fn now(&self) -> Time {
        self.0.now()
    }

    fn uptime(&self) -> Uptime {
        assert!(!self.1.swap(false, Ordering::SeqCst), "as the test wants");
        self.0.uptime()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_21_a_poller_that_panics_believes_nothing_and_comes_back() {
    let Some(replicas) = Replicas::start().await else { return };
    let clock = Arc::new(TrippingClock(ManualClock::new(Time::from_micros(BEGINNING)), AtomicBool::new(false)));
    let replica = replicas.replica_with(replicas.database.url(), clock.clone()).await;
    let made = replica.make(key_of("acme", &[])).await;
    assert_eq!(replica.decision(&made.key).await, DecisionCode::Valid);
    assert_eq!(replica.app.freshness().keys_held(), 2);
    let states = replica.app.freshness().states();
    // Nobody else looks at the clock now.
    clock.1.store(true, Ordering::SeqCst);
    eventually("it has panicked", || async { (replica.app.freshness().keys_held() == 0).then_some(()) }).await;
    drop(states);
    replica.until_fresh().await;
    assert_eq!(replica.decision(&made.key).await, DecisionCode::Valid);
    assert!(replica.app.freshness().was_fresh());
}

const ROOT: &str = "5bd61f0b4f1a9c4d0be1ab3c7a5a9c0de0f1a2b3c4d5e6f708192a3b4c5d6e7f\n";

/// Stopped for as long as leases, not for the half minute of the case's own words: what counts is that it is longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_26_a_process_that_stood_still_reads_before_it_answers() {
    let Some(database) = crate::harness::TestDatabase::new(Engine::Postgres).await else { return };
    let serve = |folder: &std::path::Path| {
        std::fs::create_dir_all(folder.join("data/root-secrets")).unwrap();
        write(&folder.join("data/root-secrets/0"), ROOT, 0o600);
        write(&folder.join("data/bootstrap.key"), &std::fs::read_to_string(folder.join("../key")).unwrap(), 0o600);
        Program::new(folder)
            .set("CLAVIGER_DATABASE_URL", database.url())
            .set("CLAVIGER_BOOTSTRAP_KEY_FILE", "data/bootstrap.key")
            .serve()
    };
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    std::fs::create_dir_all(one.join("data/root-secrets")).unwrap();
    write(&one.join("data/root-secrets/0"), ROOT, 0o600);
    let admin = Program::new(&one).args(&["bootstrap", "--offline"]).run().stdout;
    write(&folder.path().join("key"), &admin, 0o600);
    let admin = admin.trim_end().to_owned();
    let (near, far) = (serve(&one), serve(&two));
    let request = proto::CreateRequest { api_key: Some(key_of("acme", &[])), ..Default::default() };
    let made = near.client(&admin).create(request).await.unwrap().into_inner();
    let validate = proto::ValidateRequest { key: made.key, ..Default::default() };
    let mut client = far.client(&admin);
    for _ in 0..3 {
        assert!(client.validate(validate.clone()).await.unwrap().into_inner().valid);
    }
    far.running.signal("STOP");
    // Queued while it stands still, and sent after the deletion was enforced.
    let delete = proto::DeleteRequest { id: made.api_key.unwrap().id, ..Default::default() };
    assert!(near.client(&admin).delete(delete).await.unwrap().into_inner().enforced);
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (mut client, validate) = (client.clone(), validate.clone());
        waiting.spawn(async move { client.validate(validate).await });
    }
    tokio::task::yield_now().await;
    far.running.signal("CONT");
    for answer in waiting.join_all().await {
        match answer {
            Ok(answer) => assert_eq!(answer.into_inner().code(), DecisionCode::Deleted),
            // It could not read in time: no decision either.
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
        }
    }
    assert_eq!(near.stop().code, Some(0));
    assert_eq!(far.stop().code, Some(0));
}

on_every_engine! {
    async fn without_a_change_of_its_own_a_key_stays_in_memory(service: Service) {
        let (kept, gone) = (service.make_for("acme", &[]).await, service.make_for("acme", &[]).await);
        for made in [&kept, &gone] {
            service.until_warm(&made.key).await;
        }
        delete(service.admin(), &gone.id).await.unwrap();
        let work = service.work();
        assert_eq!(service.decision(&kept.key).await, DecisionCode::Valid);
        assert_eq!(service.work(), work);
    }
}
