//! Connections have places, and none of them is kept from clients that call: not by connections that say nothing, nor by
//! handshakes that never finish.

use std::{io::ErrorKind, net::Ipv4Addr};

use claviger::{grpc::proto, server::Limits};
use prost::Message as _;
use tokio::net::TcpStream;

use crate::{
    harness::{
        client_of,
        frames::{END_STREAM, Frames, HEADERS, SETTINGS, WINDOW_UPDATE, connect_from},
        process::{PATIENCE, eventually},
    },
    tls_handshakes::{HOUR, SecondDoor},
};

const PLACES: usize = 32;
const GET: &str = "/claviger.v1.ApiKeyService/Get";

/// A service with few places, whose handshakes may take for ever.
async fn crowded() -> SecondDoor {
    let limits = Limits { handshake: HOUR, connections: PLACES, ..Limits::default() };
    SecondDoor::open(None, limits, HOUR).await
}

/// Calls Get with the caller's own key on a connection that stays the same.
async fn get_self(connection: &mut Frames, key: &str) {
    let stream = connection.call(GET, key, &proto::GetRequest::default().encode_to_vec()).await.unwrap();
    let ended =
        connection.until(|frame| frame.kind == HEADERS && frame.flags & END_STREAM != 0 && frame.stream == stream);
    tokio::time::timeout(PATIENCE, ended).await.unwrap().expect("the connection was closed");
}

/// Makes a call on a connection of its own.
async fn call_on_a_new_connection(door: &SecondDoor) {
    let mut client = client_of(door.channel(), &door.service.admin);
    client.list(proto::ListRequest::default()).await.unwrap();
}

/// Whether the other side has closed the connection.
fn is_closed(stream: &TcpStream) -> bool {
    !matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_57_silent_connections_keep_neither_new_calls_nor_old_connections_out() {
    let door = crowded().await;
    let (address, admin) = (door.address, door.service.admin.clone());
    let mut old = Frames::connect(address, 65_535).await;
    get_self(&mut old, &admin).await;

    let mut silent = Vec::new();
    for number in 0..u8::try_from(4 * PLACES).unwrap() {
        // From one address, and from many.
        for from in [Ipv4Addr::new(127, 0, 1, 1), Ipv4Addr::new(127, 0, 2, number), Ipv4Addr::LOCALHOST] {
            silent.push(connect_from(from, address).await);
        }
        if number.is_multiple_of(16) {
            call_on_a_new_connection(&door).await;
            get_self(&mut old, &admin).await;
        }
    }
    eventually("all but those that still have a place are closed", async || {
        (silent.iter().filter(|stream| !is_closed(stream)).count() < PLACES).then_some(())
    })
    .await;
    get_self(&mut old, &admin).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_57_idle_http_2_connections_without_a_key_give_way_to_calls() {
    let door = crowded().await;
    let (address, admin) = (door.address, door.service.admin.clone());
    let mut old = Frames::connect(address, 65_535).await;
    get_self(&mut old, &admin).await;
    let mut idle = Vec::new();
    for number in 0..4 * PLACES {
        let mut connection = Frames::connect(address, 65_535).await;
        // Its handshakes are complete: the server has sent its settings. Or it was displaced meanwhile.
        connection.next().await;
        idle.push(connection);
        if number % 16 == 15 {
            call_on_a_new_connection(&door).await;
        }
    }
    get_self(&mut old, &admin).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_fills_all_places_displaces_its_own_connections() {
    let door = crowded().await;
    let (address, admin) = (door.address, door.service.admin.clone());
    let mut old = Frames::connect(address, 65_535).await;
    get_self(&mut old, &admin).await;
    let greedy = door.service.make_for("greedy", &[]).await;
    let mut held = Vec::new();
    for _ in 0..2 * PLACES {
        let mut connection = Frames::connect(address, 65_535).await;
        get_self(&mut connection, &greedy.key).await;
        held.push(connection);
    }
    get_self(&mut old, &admin).await;
    let (first, last) = (&mut held[0], 2 * PLACES - 1);
    assert!(tokio::time::timeout(PATIENCE, first.until(|_| false)).await.unwrap().is_none(), "the oldest is closed");
    get_self(&mut held[last], &greedy.key).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_may_send_64_kib_of_a_request_and_4_mib_of_all_requests_ahead() {
    let door = crowded().await;
    let mut connection = Frames::connect(door.address, 65_535).await;
    let settings = connection.until(|frame| frame.kind == SETTINGS && frame.flags == 0).await.unwrap().payload;
    let windows: Vec<_> =
        settings.chunks(6).filter(|setting| setting[..2] == [0, 4]).map(|setting| &setting[2..]).collect();
    assert_eq!(windows, [&65_536_u32.to_be_bytes()]);
    let update = connection.until(|frame| frame.kind == WINDOW_UPDATE && frame.stream == 0).await.unwrap();
    assert_eq!(update.payload, (4 * 1024 * 1024 - 65_535_u32).to_be_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_reset_before_they_are_accepted_do_not_end_the_connection() {
    let door = crowded().await;
    let admin = door.service.admin.clone();
    let mut connection = Frames::connect(door.address, 65_535).await;
    connection.begin_and_reset(GET, &admin, 200).await;
    get_self(&mut connection, &admin).await;
}
