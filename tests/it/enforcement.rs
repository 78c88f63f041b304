//! What Delete, Rotate and Update promise when they answer `enforced`, on replicas that answer from memory.

use std::time::{Duration, Instant};

use claviger::{
    clock::{Clock, SystemClock},
    domain::Time,
    grpc::proto::{self, DecisionCode},
};
use prost_types::FieldMask;
use sea_orm::ConnectionTrait;
use tonic::Request;

use crate::harness::{Engine, Service, key_of, process::eventually, replicas::Replicas};

const WAIT: Duration = Duration::from_millis(1_050);

fn moment(time: Option<prost_types::Timestamp>) -> Time {
    let time = time.unwrap();
    Time::from_timestamp(time.seconds, time.nanos).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_enforced_change_is_known_to_every_replica() {
    let Some(replicas) = Replicas::start().await else { return };
    let (one, two) = (replicas.replica().await, replicas.replica().await);
    for round in 0..3 {
        let made = one.make(key_of("acme", &["a"])).await;
        let id = made.api_key.unwrap().id;
        two.until_fresh().await;
        assert_eq!(two.decision(&made.key).await, DecisionCode::Valid, "valid as soon as Create has answered");

        let began = Instant::now();
        let update = proto::UpdateRequest {
            api_key: Some(proto::ApiKey { id: id.clone(), disabled: true, ..Default::default() }),
            update_mask: Some(FieldMask { paths: vec!["disabled".into()] }),
            ..Default::default()
        };
        assert!(one.admin().update(update.clone()).await.unwrap().into_inner().enforced);
        assert!(began.elapsed() >= WAIT, "round {round}: {:?}", began.elapsed());
        assert_eq!(two.decision(&made.key).await, DecisionCode::Disabled);
        // The same again changes nothing, and has nothing left to wait for but a poll.
        let began = Instant::now();
        assert!(one.admin().update(update).await.unwrap().into_inner().enforced);
        assert!(began.elapsed() < WAIT, "round {round}: {:?}", began.elapsed());
        let enable = proto::UpdateRequest {
            api_key: Some(proto::ApiKey { id: id.clone(), ..Default::default() }),
            update_mask: Some(FieldMask { paths: vec!["disabled".into()] }),
            no_wait: true,
        };
        assert!(!one.admin().update(enable).await.unwrap().into_inner().enforced);
        eventually("the widening is known", || async {
            (two.decision(&made.key).await == DecisionCode::Valid).then_some(())
        })
        .await;

        let rotate = proto::RotateRequest { id: id.clone(), ..Default::default() };
        let rotated = one.admin().rotate(rotate).await.unwrap().into_inner();
        assert!(rotated.enforced);
        assert_eq!(two.decision(&made.key).await, DecisionCode::SecretRetired);
        assert_eq!(two.decision(&rotated.key).await, DecisionCode::Valid);

        assert!(one.delete(&id, false).await.enforced);
        assert_eq!(two.decision(&rotated.key).await, DecisionCode::Deleted);
        let began = Instant::now();
        assert!(two.delete(&id, false).await.enforced, "and once more, from elsewhere");
        assert!(began.elapsed() < WAIT, "it knows the change from its polls: {:?}", began.elapsed());
    }
    assert_eq!((one.app.freshness().anomalies(), two.app.freshness().anomalies()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_does_not_wait_is_told_from_when_on_the_change_holds() {
    let Some(replicas) = Replicas::start().await else { return };
    let (one, two) = (replicas.replica().await, replicas.replica().await);
    let made = one.make(key_of("acme", &[])).await;
    let id = made.api_key.unwrap().id;
    two.until_fresh().await;
    assert_eq!(two.decision(&made.key).await, DecisionCode::Valid);
    let before = SystemClock.now();
    let began = Instant::now();
    let answer = one.delete(&id, true).await;
    assert!(!answer.enforced && began.elapsed() < WAIT, "{:?}", began.elapsed());
    assert!(moment(answer.enforce_time) >= before.saturating_add(WAIT));
    // Its own replica has forgotten the key already.
    assert_eq!(one.decision(&made.key).await, DecisionCode::Deleted);
    eventually("the other one learns of it", || async {
        (two.decision(&made.key).await == DecisionCode::Deleted).then_some(())
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_comes_before_a_deadline_that_is_shorter_than_the_wait() {
    let Some(replicas) = Replicas::start().await else { return };
    let one = replicas.replica().await;
    let made = one.make(key_of("acme", &[])).await;
    let mut request = Request::new(proto::DeleteRequest { id: made.api_key.unwrap().id, ..Default::default() });
    request.set_timeout(Duration::from_millis(900));
    let answer = one.admin().delete(request).await.unwrap().into_inner();
    assert!(!answer.enforced && answer.enforce_time.is_some());
    assert_eq!(answer.api_key.unwrap().state(), proto::State::Deleted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_embedded_database_a_change_is_enforced_at_once() {
    let service = Service::start(Engine::Sqlite).await.unwrap();
    // As it is in a new database: the harness makes it shorter.
    service.execute("UPDATE feed_head SET wait_ms = 3600000").await;
    let made = service.make_for("acme", &[]).await;
    for no_wait in [true, false] {
        assert_eq!(service.decision(&made.key).await, DecisionCode::Valid);
        let rotate = proto::RotateRequest {
            id: made.id.clone(),
            overlap: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            no_wait,
            ..Default::default()
        };
        assert!(service.admin().rotate(rotate).await.unwrap().into_inner().enforced);
        service.make_for("acme", &[]).await;
        if no_wait {
            assert_eq!(service.decision(&made.key).await, DecisionCode::Valid, "until the overlap ends");
        }
    }
    let delete = proto::DeleteRequest { id: made.id.clone(), ..Default::default() };
    assert!(service.admin().delete(delete).await.unwrap().into_inner().enforced);
    assert_eq!(service.decision(&made.key).await, DecisionCode::Deleted);
}

on_every_engine! {
    async fn a_decision_is_never_older_than_the_revision_that_was_asked_for(service: Service) {
        let made = service.make_for("acme", &[]).await;
        let at_least = async |min_revision: &str| {
            let request = proto::ValidateRequest {
                key: made.key.clone(),
                min_revision: min_revision.to_owned(),
                ..Default::default()
            };
            service.admin().validate(request).await.map(tonic::Response::into_inner)
        };
        let first = at_least("").await.unwrap();
        assert_eq!(at_least(&first.revision).await.unwrap().revision, first.revision);
        let other = service.make_for("acme", &[]).await;
        let later = service.validate(&other.key, "").await.unwrap().revision;
        assert_ne!(later, first.revision);
        let reads = service.app.freshness().fills();
        assert!(at_least(&later).await.unwrap().valid);
        // It was read anew, or the poll had come by then: never from before it.
        assert!(service.app.freshness().fills() <= reads + 1);
        let broken = at_least("nonsense").await.unwrap_err();
        insta::allow_duplicates! {
            insta::assert_snapshot!(crate::harness::violations(&broken), @"min_revision: is no revision; send one that this service answered with, as it was");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_waits_for_those_who_wait_for_enforcement() {
    use crate::harness::process::{Program, write};
    let Some(database) = crate::harness::TestDatabase::new(Engine::Postgres).await else { return };
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("data/root-secrets")).unwrap();
    let root = "5bd61f0b4f1a9c4d0be1ab3c7a5a9c0de0f1a2b3c4d5e6f708192a3b4c5d6e7f\n";
    write(&folder.path().join("data/root-secrets/0"), root, 0o600);
    let admin = Program::new(folder.path()).args(&["bootstrap", "--offline"]).run().stdout;
    write(&folder.path().join("key"), &admin, 0o600);
    let serving = Program::new(folder.path())
        .set("CLAVIGER_DATABASE_URL", database.url())
        .set("CLAVIGER_BOOTSTRAP_KEY_FILE", "key")
        .serve();
    let mut client = serving.client(admin.trim_end());
    let request = proto::CreateRequest { api_key: Some(key_of("acme", &[])), ..Default::default() };
    let id = client.create(request).await.unwrap().into_inner().api_key.unwrap().id;
    let by_hand = database.by_hand().await;
    let deleting = tokio::spawn(async move { client.delete(proto::DeleteRequest { id, ..Default::default() }).await });
    let deleted = "SELECT count(*) AS n FROM api_key WHERE delete_time IS NOT NULL";
    eventually("it is committed", || async {
        (crate::harness::dump::number(&by_hand, deleted).await == 1).then_some(())
    })
    .await;
    serving.running.signal("TERM");
    assert!(deleting.await.unwrap().unwrap().into_inner().enforced);
    assert_eq!(serving.running.ended().code, Some(0));
}

on_every_engine! {
    async fn case_46_what_changes_nothing_waits_for_a_poll_and_drops_nothing_from_memory(service: Service) {
        let made = service.make_for("acme", &[]).await;
        let update = proto::UpdateRequest {
            api_key: Some(proto::ApiKey { id: made.id.clone(), ..Default::default() }),
            update_mask: Some(FieldMask { paths: vec!["disabled".into()] }),
            ..Default::default()
        };
        assert_eq!(service.decision(&made.key).await, DecisionCode::Valid);
        for _ in 0..3 {
            // At once there is no proof: it says so.
            let at_once = proto::UpdateRequest { no_wait: true, ..update.clone() };
            let answer = service.admin().update(at_once).await.unwrap().into_inner();
            assert!(!answer.enforced && answer.enforce_time.is_some());
        }
        // The callers of changes are read anew; the key that nothing happened to is not.
        let reads = service.app.freshness().fills();
        assert_eq!(service.decision(&made.key).await, DecisionCode::Valid);
        assert_eq!(service.app.freshness().fills(), reads, "what changes nothing keeps nobody's key cold");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_46_a_commit_that_outlasts_its_call_is_enforced_only_when_it_is_invalidated_here() {
    let Some(replicas) = Replicas::start().await else { return };
    let one = replicas.replica().await;
    let made = one.make(key_of("acme", &[])).await;
    let id = made.api_key.unwrap().id;
    one.until_fresh().await;
    assert_eq!(one.decision(&made.key).await, DecisionCode::Valid);
    // Runs at the commit, and takes longer than that may take.
    replicas
        .database
        .by_hand()
        .await
        .execute_unprepared(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(7); RETURN NULL; END'; \
             CREATE CONSTRAINT TRIGGER slow AFTER UPDATE ON api_key DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE \
             FUNCTION slow()",
        )
        .await
        .unwrap();
    let request = proto::DeleteRequest { id: id.clone(), ..Default::default() };
    let unknown = one.admin().delete(request.clone()).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::Unknown, "{unknown:?}");
    let enforced = eventually("the same again is enforced", || async {
        let answer = one.admin().delete(request.clone()).await.ok()?.into_inner();
        answer.enforced.then_some(())
    });
    enforced.await;
    assert_eq!(one.validate(&made.key).await.unwrap().code(), DecisionCode::Deleted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_50_with_the_longest_lease_a_delete_is_enforced_in_one_call_and_a_repeat_continues_its_wait() {
    let Some(replicas) = Replicas::start().await else { return };
    let one = replicas.replica().await;
    let (lease, wait) = (Duration::from_secs(10), Duration::from_millis(10_500));
    one.app.store().feed_set_lease(lease, wait).await.unwrap();
    let id = one.make(key_of("acme", &[])).await.api_key.unwrap().id;
    let began = Instant::now();
    assert!(!one.delete(&id, true).await.enforced);
    assert!(!one.delete(&id, true).await.enforced);
    assert!(one.delete(&id, false).await.enforced, "in one call");
    assert!(began.elapsed() >= wait, "{:?}", began.elapsed());
    let again = Instant::now();
    assert!(one.delete(&id, false).await.enforced);
    assert!(again.elapsed() < WAIT, "the wait does not begin anew: {:?}", again.elapsed());
}
