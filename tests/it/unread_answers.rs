//! Answers that are never read: they cost little, they end, and they hold up nobody else and no revocation.

use std::time::Duration;

use claviger::{admission::AnswerLimits, grpc::proto, server::Limits};
use prost::Message as _;
use tonic::Code;

use crate::{
    harness::{
        Made, client_of,
        frames::{DATA, END_STREAM, Frames, HEADERS, RST_STREAM, WINDOW_UPDATE},
        key_of,
        process::{PATIENCE, eventually},
    },
    tls_handshakes::{HOUR, SecondDoor},
};

const GET: &str = "/claviger.v1.ApiKeyService/Get";
const LIST: &str = "/claviger.v1.ApiKeyService/List";
const READ: &str = "claviger:keys.read";
const WRITE: &str = "claviger:keys.write";
/// The reason `ENHANCE_YOUR_CALM`.
const CALM: [u8; 4] = [0, 0, 0, 11];
const KIB: u64 = 1024;

/// Limits that no test reaches by accident.
fn patient() -> AnswerLimits {
    AnswerLimits { stall: HOUR, sent_within: HOUR, unread_after: Duration::from_millis(20), ..AnswerLimits::default() }
}

async fn with_limits(answers: AnswerLimits) -> SecondDoor {
    SecondDoor::open(None, Limits { answers, ..Limits::default() }, HOUR).await
}

/// Makes so many keys of `merchant` that a page of them has nearly so many KiB.
async fn make_page(door: &SecondDoor, merchant: &str, kib: usize) {
    let labels = (0..16).map(|label| (format!("label{label}"), "x".repeat(63))).collect();
    let key = proto::ApiKey { labels, ..key_of(merchant, &[]) };
    for _ in 0..kib * 2 / 3 {
        door.service.make(key.clone()).await;
    }
}

fn get_self() -> Vec<u8> {
    proto::GetRequest { id: "self".into(), ..Default::default() }.encode_to_vec()
}

fn list() -> Vec<u8> {
    proto::ListRequest { page_size: 1_000, ..Default::default() }.encode_to_vec()
}

async fn delete(door: &SecondDoor, key: &Made, by: &str) {
    let request = proto::DeleteRequest { id: key.id.clone(), ..Default::default() };
    let answer = client_of(door.channel(), by).delete(request).await.unwrap().into_inner();
    assert!(answer.enforced);
}

/// Waits for the headers of so many answers.
async fn headers_of(connection: &mut Frames, calls: usize) {
    for _ in 0..calls {
        connection.until(|frame| frame.kind == HEADERS).await.expect("the connection was closed");
    }
}

async fn within_patience<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it takes too long")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_54_the_connection_of_a_caller_that_opens_no_window_is_closed() {
    let limits = AnswerLimits::default();
    assert_eq!((limits.stall, limits.sent_within), (Duration::from_secs(10), Duration::from_secs(60)));
    let door = with_limits(AnswerLimits { stall: Duration::from_millis(200), ..patient() }).await;
    make_page(&door, "acme", 40).await;
    for (path, message) in [(GET, get_self()), (LIST, list())] {
        let key = door.service.make_for("acme", &[READ]).await;
        let mut connection = Frames::connect(door.address, 0).await;
        for _ in 0..8 {
            connection.call(path, &key.key, &message).await.unwrap();
        }
        headers_of(&mut connection, 8).await;
        let end = within_patience(connection.until(|frame| frame.kind == DATA || frame.kind == RST_STREAM)).await;
        assert!(end.is_none(), "{end:?}");
        delete(&door, &key, &door.service.admin).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_54_the_stream_of_a_caller_that_reads_one_byte_is_reset_and_its_connection_goes_on() {
    let door = with_limits(AnswerLimits { stall: Duration::from_millis(200), ..patient() }).await;
    make_page(&door, "acme", 40).await;
    let key = door.service.make_for("acme", &[READ]).await;
    let mut connection = Frames::connect(door.address, 1).await;
    for (path, message) in [(GET, get_self()), (LIST, list()), (GET, get_self())] {
        let stream = connection.call(path, &key.key, &message).await.unwrap();
        let reset = within_patience(connection.until(|frame| frame.kind == RST_STREAM)).await.unwrap();
        assert_eq!((reset.stream, &reset.payload[..]), (stream, &CALM[..]));
    }
    delete(&door, &key, &door.service.admin).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_54_a_connection_of_several_callers_goes_on_although_one_of_them_does_not_read() {
    let stall = Duration::from_millis(50);
    let door = with_limits(AnswerLimits { stall, ..patient() }).await;
    let (idle, rightful) = (door.service.make_for("idle", &[]).await, door.service.make_for("rightful", &[]).await);
    let mut connection = Frames::connect(door.address, 0).await;
    let begun = std::time::Instant::now();
    let mut calls = 0;
    while begun.elapsed() < stall * 10 || calls < 5 {
        // Rightful calls come first: until then the connection is the idle caller's alone.
        let stream = connection.call(GET, &rightful.key, &get_self()).await.unwrap();
        assert!(connection.send(WINDOW_UPDATE, 0, stream, &65_535_u32.to_be_bytes()).await);
        let ended = connection.until(|frame| frame.stream == stream && frame.flags & END_STREAM != 0);
        within_patience(ended).await.expect("the connection was closed");
        if calls < 30 {
            connection.call(GET, &idle.key, &get_self()).await.unwrap();
        }
        calls += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_54_a_caller_that_reads_nothing_is_refused_except_for_revocations() {
    let door = with_limits(AnswerLimits { others_of_caller: 30 * KIB, ..patient() }).await;
    let key = door.service.make_for("idle", &[READ, WRITE]).await;
    let other = door.service.make_for("other", &[READ]).await;
    let mut connection = Frames::connect(door.address, 0).await;
    for _ in 0..8 {
        connection.call(GET, &key.key, &get_self()).await.unwrap();
    }
    let get = async |key: &str| {
        let request = proto::GetRequest { id: "self".into(), ..Default::default() };
        client_of(door.channel(), key).get(request).await
    };
    eventually("the caller is refused", async || {
        // The connection has to be known as the caller's, so each has more than one call.
        let mut client = client_of(door.channel(), &key.key);
        for _ in 0..20 {
            let request = proto::GetRequest { id: "self".into(), ..Default::default() };
            match client.get(request).await {
                Ok(_) => tokio::task::yield_now().await,
                Err(status) => {
                    assert_eq!(status.code(), Code::ResourceExhausted);
                    return Some(());
                }
            }
        }
        None
    })
    .await;
    get(&other.key).await.unwrap();
    delete(&door, &key, &key.key).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_54_a_caller_with_unread_pages_gets_no_further_one_and_others_do() {
    let door = with_limits(AnswerLimits { pages_of_caller: 64 * KIB, ..patient() }).await;
    make_page(&door, "acme", 40).await;
    make_page(&door, "other", 40).await;
    let (key, other) = (door.service.make_for("acme", &[READ]).await, door.service.make_for("other", &[READ]).await);
    let mut connection = Frames::connect(door.address, 1).await;
    connection.call(LIST, &key.key, &list()).await.unwrap();
    // The page was made.
    within_patience(connection.until(|frame| frame.kind == DATA)).await.unwrap();
    let list = async |key: &str| {
        let request = proto::ListRequest { page_size: 1_000, ..Default::default() };
        client_of(door.channel(), key).list(request).await
    };
    assert_eq!(list(&key.key).await.unwrap_err().code(), Code::ResourceExhausted);
    assert!(list(&other.key).await.unwrap().into_inner().api_keys.len() > 20);
    drop(connection);
    eventually("what was not read is freed with its connection", async || list(&key.key).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_54_when_all_pages_are_too_much_the_largest_holder_loses_its_oldest() {
    // Each page fits, and both together do not.
    let door = with_limits(AnswerLimits { pages: 90 * KIB, pages_of_caller: 80 * KIB, ..patient() }).await;
    make_page(&door, "acme", 80).await;
    make_page(&door, "other", 40).await;
    let (key, other) = (door.service.make_for("acme", &[READ]).await, door.service.make_for("other", &[READ]).await);
    let mut holder = Frames::connect(door.address, 1).await;
    let stream = holder.call(LIST, &key.key, &list()).await.unwrap();
    within_patience(holder.until(|frame| frame.kind == DATA)).await.unwrap();
    let request = proto::ListRequest { page_size: 1_000, ..Default::default() };
    client_of(door.channel(), &other.key).list(request).await.unwrap();
    let reset = within_patience(holder.until(|frame| frame.kind == RST_STREAM)).await.unwrap();
    assert_eq!((reset.stream, &reset.payload[..]), (stream, &CALM[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_answer_comes_in_chunks_and_is_complete() {
    let door = with_limits(patient()).await;
    make_page(&door, "acme", 40).await;
    let mut connection = Frames::connect(door.address, 1_000_000).await;
    let stream = connection.call(LIST, &door.service.admin, &list()).await.unwrap();
    let mut body = Vec::new();
    loop {
        let frame = within_patience(connection.next()).await.unwrap();
        if frame.stream != stream {
            continue;
        }
        if frame.kind == DATA {
            assert!(frame.payload.len() <= 16 * 1024);
            body.extend(frame.payload);
        }
        if frame.flags & END_STREAM != 0 {
            assert_eq!(frame.kind, HEADERS);
            break;
        }
    }
    let page = proto::ListResponse::decode(&body[5..]).unwrap();
    assert!(page.api_keys.len() > 20 && body.len() > 32 * 1024);
}
