//! SIGTERM: what has begun is finished, and nobody can hold the end up.

use std::{
    io::Write,
    net::TcpStream,
    path::Path,
    time::{Duration, Instant},
};

use claviger::grpc::proto;
use sea_orm::{ConnectionTrait, DatabaseConnection};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::harness::{
    Engine, TestDatabase,
    dump::number,
    key_of,
    process::{Program, Serving, admin_key, eventually, write},
};

const ROOT: &str = "5bd61f0b4f1a9c4d0be1ab3c7a5a9c0de0f1a2b3c4d5e6f708192a3b4c5d6e7f\n";

/// Serves `database` and gives an administrator's key with it.
fn serve(folder: &Path, database: &TestDatabase) -> (Serving, String) {
    std::fs::create_dir_all(folder.join("data/root-secrets")).unwrap();
    write(&folder.join("data/root-secrets/0"), ROOT, 0o600);
    let key = Program::new(folder).args(&["bootstrap", "--offline"]).run().stdout;
    write(&folder.join("bootstrap.key"), &key, 0o600);
    let serving = Program::new(folder)
        .set("CLAVIGER_DATABASE_URL", database.url())
        .set("CLAVIGER_BOOTSTRAP_KEY_FILE", "bootstrap.key")
        .serve();
    (serving, key.trim_end().to_owned())
}

/// Waits until a change of the service waits for a lock that somebody else holds.
async fn until_a_change_waits(database: &DatabaseConnection) {
    let waiting = "SELECT count(*) AS n FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("a change waits", || async { (number(database, waiting).await > 0).then_some(()) }).await;
}

fn create() -> proto::CreateRequest {
    proto::CreateRequest { api_key: Some(key_of("acme", &[])), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_has_begun_is_finished_and_answered() {
    let Some(database) = TestDatabase::new(Engine::Postgres).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let (serving, key) = serve(folder.path(), &database);
    let (holder, watcher) = (database.by_hand().await, database.by_hand().await);
    holder.execute_unprepared("BEGIN; SELECT * FROM feed_head FOR UPDATE").await.unwrap();
    let mut client = serving.client(&key);
    let mut call = tokio::spawn(async move { client.create(create()).await });
    until_a_change_waits(&watcher).await;
    serving.running.signal("TERM");
    serving.running.wait_until_told("shutting down");
    assert!(futures_util::poll!(&mut call).is_pending());
    holder.execute_unprepared("COMMIT").await.unwrap();
    let made = call.await.unwrap().unwrap().into_inner();
    assert!(made.key.starts_with("clv_"));
    let ended = serving.running.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(number(&watcher, "SELECT count(*) AS n FROM api_key WHERE merchant_username = 'acme'").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_whose_caller_hung_up_is_finished_before_the_end() {
    let Some(database) = TestDatabase::new(Engine::Postgres).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let (serving, key) = serve(folder.path(), &database);
    let (holder, watcher) = (database.by_hand().await, database.by_hand().await);
    holder.execute_unprepared("BEGIN; SELECT * FROM feed_head FOR UPDATE").await.unwrap();
    let mut client = serving.client(&key);
    let call = tokio::spawn(async move { client.create(create()).await });
    until_a_change_waits(&watcher).await;
    call.abort();
    assert!(call.await.err().unwrap().is_cancelled());
    serving.running.signal("TERM");
    serving.running.wait_until_told("shutting down");
    holder.execute_unprepared("COMMIT").await.unwrap();
    let ended = serving.running.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(number(&watcher, "SELECT count(*) AS n FROM api_key WHERE merchant_username = 'acme'").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_of_the_health_is_told_and_does_not_hold_up_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Program::new(folder.path()).set("CLAVIGER_DRAIN_TIMEOUT", "10m").serve();
    let mut health = HealthClient::new(serving.channel());
    let request = HealthCheckRequest { service: "claviger.v1.ApiKeyService".into() };
    let mut watching = health.watch(request).await.unwrap().into_inner();
    assert_eq!(watching.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    serving.running.signal("TERM");
    assert_eq!(watching.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    // Far before the time-out of the drain, or this test gives up.
    assert_eq!(serving.running.ended().code, Some(0));
}

#[test]
fn connections_that_say_nothing_do_not_hold_up_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Program::new(folder.path()).set("CLAVIGER_DRAIN_TIMEOUT", "2s").serve();
    let _silent = TcpStream::connect(serving.address).unwrap();
    let mut half = TcpStream::connect(serving.address).unwrap();
    half.write_all(b"PRI * HTTP/2.0\r\n").unwrap();
    let began = Instant::now();
    let ended = serving.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_before_a_kill_is_there_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Program::new(folder.path()).serve();
    let admin = admin_key(folder.path());
    let made = serving.client(&admin).create(create()).await.unwrap().into_inner().api_key.unwrap();
    serving.running.signal("KILL");
    assert_eq!(serving.running.ended().code, None);
    let again = Program::new(folder.path()).serve();
    let request = proto::GetRequest { id: made.id.clone(), ..Default::default() };
    assert_eq!(again.client(&admin).get(request).await.unwrap().into_inner().api_key.unwrap(), made);
}
