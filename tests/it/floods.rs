//! Frames that belong to no call: a client that sends too many of them is closed, or made to wait. Clients that accept no
//! bytes are closed.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use claviger::{admission::AnswerLimits, grpc::proto, server::Limits};
use prost::Message as _;
use tokio::{io::AsyncWriteExt as _, net::TcpSocket, sync::Mutex};

use crate::{
    harness::{
        client_of,
        frames::{
            ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, PADDED, PING, PRIORITY, SETTINGS, WINDOW_UPDATE,
            frame,
        },
        key_of,
        process::{PATIENCE, eventually},
    },
    tls_handshakes::{HOUR, SecondDoor},
};

const LIST: &str = "/claviger.v1.ApiKeyService/List";
const VALIDATE_STREAM: &str = "/claviger.v1.ApiKeyService/ValidateStream";

async fn with_limits(limits: Limits) -> SecondDoor {
    SecondDoor::open(None, limits, HOUR).await
}

async fn call_on_a_new_connection(door: &SecondDoor) {
    let mut client = client_of(door.channel(), &door.service.admin);
    client.list(proto::ListRequest::default()).await.unwrap();
}

/// Sends `bytes` again and again and reads nothing, until the connection is closed.
async fn flood_until_closed(mut connection: Frames, bytes: &[u8]) {
    let bytes = bytes.repeat(64);
    let flood = async { while connection.write.write_all(&bytes).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, flood).await.expect("the connection stays open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_68_a_flood_of_frames_without_a_call_closes_the_connection() {
    assert_eq!(Limits::default().control_bytes, 1024 * 1024);
    let door = with_limits(Limits { control_bytes: 8 * 1024, ..Limits::default() }).await;
    let setting = [0, 4, 0, 0, 0xff, 0xff];
    for (kind, flags, on_a_stream, payload) in [
        (PING, 0, false, &[0; 8][..]),
        (PING, ACK, false, &[0; 8]),
        (SETTINGS, 0, false, &setting),
        (SETTINGS, 0, false, &[]),
        (PRIORITY, 0, true, &[0, 0, 0, 0, 1]),
        (WINDOW_UPDATE, 0, false, &[0, 0, 0, 1]),
        (WINDOW_UPDATE, 0, true, &[0, 0, 0, 1]),
        (DATA, 0, true, &[]),
        (DATA, PADDED, true, &[3, 0, 0, 0]),
        (0xbe, 0, false, &[0; 100]),
    ] {
        let mut connection = Frames::connect(door.address, 65_535).await;
        let stream = if on_a_stream {
            connection.begin(VALIDATE_STREAM, &door.service.admin, END_HEADERS).await.unwrap()
        } else {
            0
        };
        flood_until_closed(connection, &frame(kind, flags, stream, payload)).await;
    }
    let mut connection = Frames::connect(door.address, 65_535).await;
    let stream = connection.begin(VALIDATE_STREAM, &door.service.admin, 0).await.unwrap();
    // Each ends the name of a header that never comes to its end.
    flood_until_closed(connection, &frame(CONTINUATION, 0, stream, &[0; 64])).await;
    call_on_a_new_connection(&door).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_68_a_flood_below_the_limit_is_read_so_slowly_that_it_costs_nothing() {
    let door = with_limits(Limits { control_bytes: u64::MAX, ..Limits::default() }).await;
    let begun = Instant::now();
    let Frames { mut read, mut write, .. } = Frames::connect(door.address, 65_535).await;
    let pings = frame(PING, 0, 0, &[0; 8]).repeat(1_000);
    let flood = tokio::spawn(async move { while write.write_all(&pings).await.is_ok() {} });
    let mut answered = 0_u32;
    let counting = async {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = tokio::io::AsyncReadExt::read(&mut read, &mut bytes).await {
            answered += u32::try_from(read / 17).unwrap();
        }
    };
    let calling = async {
        while begun.elapsed() < Duration::from_secs(1) {
            call_on_a_new_connection(&door).await;
        }
    };
    tokio::select! { () = counting => panic!("the connection was closed"), () = calling => {} }
    flood.abort();
    // What may be sent at once, what one read brings on top, and what time allows.
    let most = 1_000 + 2_000 + 100 * u32::try_from(begun.elapsed().as_secs() + 1).unwrap();
    assert!((1_000..most).contains(&answered), "{answered} of {most}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_connection_may_send_as_many_control_frames_as_its_calls_need() {
    let door = with_limits(Limits { control_bytes: 256, ..Limits::default() }).await;
    let key = &door.service.admin;
    let mut connection = Frames::connect(door.address, 65_535).await;
    for _ in 0..500 {
        let stream = connection.call(LIST, key, &[]).await.unwrap();
        let update = frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0]).repeat(4);
        connection.write.write_all(&update).await.unwrap();
        let answered = connection.until(|frame| frame.stream == stream && frame.flags & END_STREAM != 0).await;
        answered.expect("the connection was closed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_68_a_client_that_accepts_no_bytes_is_closed() {
    assert_eq!(Limits::default().stall, Duration::from_secs(10));
    // No other limit is to end the connection.
    let answers = AnswerLimits {
        stall: HOUR,
        sent_within: HOUR,
        pages: u64::MAX,
        pages_of_caller: u64::MAX,
        ..AnswerLimits::default()
    };
    let door = with_limits(Limits { stall: Duration::from_millis(200), answers, ..Limits::default() }).await;
    let admin = door.service.admin.clone();
    let labels: BTreeMap<_, _> = (0..16).map(|label| (format!("label{label}"), "x".repeat(63))).collect();
    for _ in 0..100 {
        door.service.make(proto::ApiKey { labels: labels.clone(), ..key_of("acme", &[]) }).await;
    }
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut connection = Frames::over(socket.connect(door.address).await.unwrap(), 0x7fff_ffff).await;
    // The connection's own window, too.
    assert!(connection.send(WINDOW_UPDATE, 0, 0, &0x7000_0000_u32.to_be_bytes()).await);
    let list = proto::ListRequest { page_size: 1_000, ..Default::default() }.encode_to_vec();
    // More than the operating system holds for a connection.
    for _ in 0..60 {
        connection.call(LIST, &admin, &list).await.unwrap();
    }
    let connection = Mutex::new(connection);
    eventually("the connection is closed", async || {
        let is_open = connection.lock().await.send(PING, 0, 0, &[0; 8]).await;
        (!is_open).then_some(())
    })
    .await;
    call_on_a_new_connection(&door).await;
}
