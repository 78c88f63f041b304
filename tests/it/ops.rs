//! The ops port of the real binary: alive, ready or why not, whatever the rest is doing.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use insta::assert_snapshot;
use sea_orm::ConnectionTrait;

use crate::harness::{
    Engine, TestDatabase,
    process::{PATIENCE, Program, admin_key, eventually, ops, write},
    raw::Endless,
};

const ROOT: &str = "5bd61f0b4f1a9c4d0be1ab3c7a5a9c0de0f1a2b3c4d5e6f708192a3b4c5d6e7f\n";

async fn until_ready(address: SocketAddr) {
    eventually("it is ready", || async { (ops(address, "/readyz").await.status == 200).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_serves_is_alive_and_ready() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Program::new(folder.path()).serve();
    let told = |path: &'static str| async { (serving.ops(path).await.status, serving.ops(path).await.text) };
    until_ready(serving.ops_address).await;
    assert_eq!(told("/livez").await, (200, "alive\n".to_owned()));
    assert_eq!(told("/readyz").await, (200, "ready\n".to_owned()));
    assert!(serving.ops("/metrics").await.text.contains("\nclaviger_ready 1\n"));
    assert_eq!(told("/").await, (404, "here are /livez, /readyz and /metrics\n".to_owned()));
    let mut stream = TcpStream::connect(serving.ops_address).unwrap();
    stream.write_all(b"POST /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_waits_for_its_database_is_alive_and_says_why_it_is_not_ready() {
    let Some(database) = TestDatabase::new(Engine::Postgres).await else { return };
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("data/root-secrets")).unwrap();
    write(&folder.path().join("data/root-secrets/0"), ROOT, 0o600);
    // Another process migrates for a long time.
    let migrating = database.by_hand().await;
    migrating.execute_unprepared("BEGIN; SELECT pg_advisory_xact_lock(1668047222)").await.unwrap();
    let running =
        Program::new(folder.path()).set("CLAVIGER_DATABASE_URL", database.url()).set("CLAVIGER_LOG", "debug").begin();
    let address: SocketAddr = running.wait_for("the ops port", |text| {
        let line = text.lines().find(|line| line.contains("the ops port is open"))?;
        line.rsplit_once("address=").and_then(|(_, address)| address.trim().parse().ok())
    });
    assert_eq!(ops(address, "/livez").await.status, 200);
    let answer = ops(address, "/readyz").await;
    assert_eq!(answer.status, 503);
    assert_snapshot!(answer.text, @r"
    not ready
    starting: the database has not answered yet
    ");
    migrating.execute_unprepared("COMMIT").await.unwrap();
    until_ready(address).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_secret_that_is_in_use_and_not_mounted_makes_it_unready() {
    let database = TestDatabase::new(Engine::Sqlite).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let serving = Program::new(folder.path()).set("CLAVIGER_DATABASE_URL", database.url()).serve();
    until_ready(serving.ops_address).await;
    // Activated by another replica; this one learns of it in its next round of upkeep.
    let by_hand = database.by_hand().await;
    by_hand
        .execute_unprepared(
            "INSERT INTO root_secret SELECT 'Z', fingerprint, 2, activate_time FROM root_secret WHERE k = '0'",
        )
        .await
        .unwrap();
    let told = eventually("it is told", || async {
        let answer = serving.ops("/readyz").await;
        (answer.status == 503).then_some(answer.text)
    })
    .await;
    assert_snapshot!(told, @r"
    not ready
    the root secret `Z` is in use and not mounted here
    ");
    assert_eq!(serving.ops("/livez").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_drains_is_alive_and_not_ready_and_can_still_be_scraped() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Program::new(folder.path()).set("CLAVIGER_DRAIN_TIMEOUT", "10m").serve();
    // It holds up the drain for as long as it is not finished.
    let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let call = Endless::begin(serving.address, path, &admin_key(folder.path())).await;
    serving.running.signal("TERM");
    let told = eventually("it drains", || async {
        let answer = serving.ops("/readyz").await;
        (answer.status == 503).then_some(answer.text)
    })
    .await;
    assert_snapshot!(told, @r"
    not ready
    draining: this process is about to end
    ");
    assert_eq!(serving.ops("/livez").await.status, 200);
    let metrics = serving.ops("/metrics").await.text;
    assert!(metrics.contains("claviger_decisions_total") && metrics.contains("\nclaviger_ready 0\n"), "{metrics}");
    drop(call);
    assert_eq!(serving.running.ended().code, Some(0));
}

/// Asks on a new connection and leaves it open.
fn kept_alive(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: keep-alive\r\n\r\n").unwrap();
    stream
}

/// How long the slowest of many probes took.
async fn slowest_probe(address: SocketAddr) -> Duration {
    let mut slowest = Duration::ZERO;
    for _ in 0..30 {
        let begun = Instant::now();
        let answer = tokio::time::timeout(PATIENCE, ops(address, "/livez")).await.expect("the probe is answered");
        assert_eq!(answer.status, 200);
        assert!(answer.head.contains("connection: close"), "{}", answer.head);
        slowest = slowest.max(begun.elapsed());
    }
    slowest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_57_idle_and_silent_connections_to_the_ops_port_do_not_starve_probes() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Program::new(folder.path()).serve();
    let address = serving.ops_address;
    let mut first = TcpStream::connect(address).unwrap();
    let _silent: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
    let _half: Vec<TcpStream> = (0..64)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"GET /livez HTTP/1.1\r\n").unwrap();
            stream
        })
        .collect();
    let kept: Vec<TcpStream> = (0..64).map(|_| kept_alive(address)).collect();
    let slowest = slowest_probe(address).await;
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    // The oldest gave way, and none that asked is kept open, answered or not.
    assert_eq!(first.read(&mut [0]).unwrap_or_default(), 0);
    for mut stream in kept {
        let mut answer = Vec::new();
        let _reset_or_end = stream.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 200 "), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_connection_to_the_ops_port_is_closed_after_two_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Program::new(folder.path()).serve();
    let begun = Instant::now();
    let mut silent = TcpStream::connect(serving.ops_address).unwrap();
    assert_eq!(silent.read(&mut [0]).unwrap_or_default(), 0);
    assert!((1_900..10_000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_57_probes_are_answered_by_a_process_that_clients_left_without_descriptors() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Program::after(folder.path(), "ulimit -n 96").begin().until_serving();
    until_ready(serving.ops_address).await;
    let connections: Vec<TcpStream> = (0..150).map(|_| TcpStream::connect(serving.address).unwrap()).collect();
    for _ in 0..5 {
        let slowest = slowest_probe(serving.ops_address).await;
        assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    }
    drop(connections);
}

#[test]
fn a_port_that_is_taken_is_told_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended =
        Program::new(folder.path()).set("CLAVIGER_LISTEN", "127.0.0.1:0").set("CLAVIGER_OPS_LISTEN", address).run();
    assert_eq!(ended.code, Some(6));
    assert_snapshot!(ended.told(), @"ERROR claviger::cli::serve: 127.0.0.1:PORT cannot be listened on (CLAVIGER_OPS_LISTEN): Address already in use (os error 98)");
    assert!(!folder.path().join("data").exists());
}
