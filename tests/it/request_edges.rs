//! When a caller is evaluated, and what a request that is not complete can hold.

use std::time::Duration;

use claviger::{
    domain::scope,
    grpc::proto::{self, validate_stream_response::Outcome},
};
use futures_util::future::join_all;
use prost::Message;
use sea_orm::ConnectionTrait as _;
use tokio::net::TcpStream;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    calls::{delete, get, update},
    harness::{Engine, Service, key_of, process::eventually, raw::HeldBack, reason},
};

fn path(rpc: &str) -> String {
    format!("/claviger.v1.ApiKeyService/{rpc}")
}

/// One request of each unary RPC that a caller with all rights over `acme` may make about the key `id`.
fn requests(id: &str, key: &str) -> Vec<(&'static str, Vec<u8>)> {
    let id = id.to_owned();
    let create = proto::CreateRequest { api_key: Some(key_of("acme", &[])), ..Default::default() };
    let settings = proto::ApiKey { id: id.clone(), display_name: "changed".into(), ..Default::default() };
    let mask = prost_types::FieldMask { paths: vec!["display_name".into()] };
    let update = proto::UpdateRequest { api_key: Some(settings), update_mask: Some(mask), ..Default::default() };
    vec![
        ("Get", proto::GetRequest { id: id.clone(), ..Default::default() }.encode_to_vec()),
        ("List", proto::ListRequest::default().encode_to_vec()),
        ("Validate", proto::ValidateRequest { key: key.into(), ..Default::default() }.encode_to_vec()),
        ("Create", create.encode_to_vec()),
        ("Update", update.encode_to_vec()),
        ("Rotate", proto::RotateRequest { id: id.clone(), ..Default::default() }.encode_to_vec()),
        ("Delete", proto::DeleteRequest { id, ..Default::default() }.encode_to_vec()),
    ]
}

on_every_engine! {
    async fn case_45_a_request_that_is_held_back_has_no_authority_after_the_delete_of_its_caller(service: Service) {
        let target = service.make_for("acme", &[]).await;
        for (rpc, message) in requests(&target.id, &target.key) {
            let caller = service.make_for("acme", &[scope::ADMIN]).await;
            // The caller is known to the cache, and may do this.
            get(service.client(&caller.key), "self").await.unwrap();
            let call = HeldBack::begin(service.address, &path(rpc), &caller.key).await;
            delete(service.admin(), &caller.id).await.unwrap();
            let status = call.finish(&message).await;
            assert_eq!(status.code(), Code::Unauthenticated, "{rpc}: {status:?}");
        }
        let untouched = get(service.admin(), &target.id).await.unwrap();
        assert_eq!(untouched.etag, target.api_key.etag);
    }
}

on_every_engine! {
    async fn case_45_a_request_that_is_not_complete_in_time_ends_and_does_nothing(service: Service) {
        let target = service.make_for("acme", &[]).await;
        let (address, admin) = (service.address, &service.admin);
        let begun = requests(&target.id, &target.key).into_iter().map(|(rpc, _)| async move {
            let mut call = HeldBack::begin(address, &path(rpc), admin).await;
            call.send(&[0, 0, 0]);
            (rpc, call.status().await)
        });
        for (rpc, status) in join_all(begun).await {
            assert_eq!(status.code(), Code::DeadlineExceeded, "{rpc}: {status:?}");
            assert_eq!(reason(&status), "REQUEST_INCOMPLETE", "{rpc}");
        }
    }
}

on_every_engine! {
    async fn case_66_the_streams_of_a_deleted_key_end_although_they_are_idle(service: Service) {
        let caller = service.make_for("acme", &[scope::VALIDATE]).await;
        let mut streams = Vec::new();
        for _ in 0..8 {
            let mut client = service.client(&caller.key);
            let (questions, asked) = tokio::sync::mpsc::unbounded_channel::<proto::ValidateStreamRequest>();
            let answers = client.validate_stream(UnboundedReceiverStream::new(asked)).await.unwrap().into_inner();
            streams.push((questions, answers));
        }
        delete(service.admin(), &caller.id).await.unwrap();
        for (_questions, answers) in &mut streams {
            let status = answers.message().await.unwrap_err();
            assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
        }
    }
}

on_every_engine! {
    async fn a_stream_whose_caller_lost_the_scope_ends_although_it_is_idle(service: Service) {
        let caller = service.make_for("acme", &[scope::VALIDATE]).await;
        let (_questions, asked) = tokio::sync::mpsc::unbounded_channel::<proto::ValidateStreamRequest>();
        let mut client = service.client(&caller.key);
        let mut answers = client.validate_stream(UnboundedReceiverStream::new(asked)).await.unwrap().into_inner();
        update(service.admin(), &caller.id, &["scopes"], proto::ApiKey::default()).await.unwrap();
        let status = answers.message().await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_66_an_item_that_is_half_sent_ends_its_stream_in_time() {
    let service = Service::start(Engine::Sqlite).await.unwrap();
    let caller = service.make_for("acme", &[scope::VALIDATE]).await;
    let mut stream = HeldBack::begin(service.address, &path("ValidateStream"), &caller.key).await;
    stream.send(&[0, 0, 1, 0, 0, 10, 90]);
    let status = stream.status().await;
    assert_eq!((status.code(), reason(&status).as_str()), (Code::DeadlineExceeded, "REQUEST_INCOMPLETE"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_66_thousands_of_idle_streams_of_one_key_keep_no_other_caller_out() {
    let service = Service::start(Engine::Sqlite).await.unwrap();
    let greedy = service.make_for("acme", &[scope::VALIDATE]).await;
    let mut held = Vec::new();
    // Seven eighths of 4,096 is what one share may hold.
    for _ in 0..16 {
        held.push(Streams::open(&service, &greedy.key, 230).await);
    }
    let open: usize = held.iter().map(|streams| streams.open).sum();
    assert_eq!(open, 4_096 - 512, "no more than one share may hold");
    let other = service.make_for("globex", &[scope::VALIDATE]).await;
    let (questions, asked) = tokio::sync::mpsc::unbounded_channel();
    let mut client = service.client(&other.key);
    let mut answers = client.validate_stream(UnboundedReceiverStream::new(asked)).await.unwrap().into_inner();
    let request = proto::ValidateRequest { key: other.key.clone(), ..Default::default() };
    questions.send(proto::ValidateStreamRequest { sequence: 7, request: Some(request) }).unwrap();
    let answer = answers.message().await.unwrap().unwrap();
    assert!(matches!(answer.outcome, Some(Outcome::Response(response)) if response.valid));
    delete(service.admin(), &greedy.id).await.unwrap();
}

/// Streams that are open on one connection, and whose requests have no item.
struct Streams {
    open: usize,
    _requests: Vec<h2::SendStream<prost::bytes::Bytes>>,
    _answers: Vec<http::Response<h2::RecvStream>>,
    _driver: tokio_util::task::AbortOnDropHandle<Result<(), h2::Error>>,
}

impl Streams {
    async fn open(service: &Service, key: &str, count: usize) -> Self {
        let stream = TcpStream::connect(service.address).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
        let driver = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
        let (mut requests, mut answers) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let request = http::Request::post(format!("http://{}{}", service.address, path("ValidateStream")))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .header("authorization", format!("Bearer {key}"));
            sender = sender.ready().await.unwrap();
            let (answer, body) = sender.send_request(request.body(()).unwrap(), false).unwrap();
            answers.push(answer);
            requests.push(body);
        }
        let answers: Vec<_> = join_all(answers).await.into_iter().map(Result::unwrap).collect();
        let is_open = |answer: &&http::Response<h2::RecvStream>| !answer.headers().contains_key("grpc-status");
        let open = answers.iter().filter(is_open).count();
        Self { open, _requests: requests, _answers: answers, _driver: driver }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_53_unfinished_calls_without_a_key_hold_nothing_that_callers_need() {
    let service = Service::start(Engine::Sqlite).await.unwrap();
    let mut unfinished = Vec::new();
    for number in 0..24 {
        let rpc =
            ["/grpc.health.v1.Health/Check", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"][number % 2];
        unfinished.push(Unfinished::begin(&service, rpc, 90).await);
    }
    // Those without a key of ours end at their headers.
    let refused = HeldBack::begin(service.address, &path("Validate"), "no key string").await.status().await;
    assert_eq!(refused.code(), Code::Unauthenticated);
    get(service.admin(), "self").await.unwrap();
    let made = service.make_for("acme", &[]).await;
    delete(service.admin(), &made.id).await.unwrap();
}

/// Calls on one connection whose requests never come.
struct Unfinished {
    _requests: Vec<(h2::client::ResponseFuture, h2::SendStream<prost::bytes::Bytes>)>,
    _driver: tokio_util::task::AbortOnDropHandle<Result<(), h2::Error>>,
}

impl Unfinished {
    async fn begin(service: &Service, path: &str, count: usize) -> Self {
        let stream = TcpStream::connect(service.address).await.unwrap();
        let (mut sender, mut connection) = h2::client::handshake(stream).await.unwrap();
        let mut pings = connection.ping_pong().unwrap();
        let driver = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
        let mut requests = Vec::new();
        for _ in 0..count {
            let request = http::Request::post(format!("http://{}{path}", service.address))
                .header("content-type", "application/grpc")
                .header("te", "trailers");
            sender = sender.ready().await.unwrap();
            requests.push(sender.send_request(request.body(()).unwrap(), false).unwrap());
        }
        pings.ping(h2::Ping::opaque()).await.unwrap();
        Self { _requests: requests, _driver: driver }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_67_a_flood_of_watches_is_bounded() {
    let service = Service::start(Engine::Sqlite).await.unwrap();
    let mut health = HealthClient::new(service.channel());
    let mut watches = Vec::new();
    let refused: Status = loop {
        assert!(watches.len() <= 2_048, "watches without a bound");
        match health.watch(HealthCheckRequest::default()).await {
            Ok(watch) => watches.push(watch.into_inner()),
            Err(status) => break status,
        }
        // A connection carries 256 calls at once.
        if watches.len() % 250 == 0 {
            let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", service.address)).unwrap();
            health = HealthClient::new(endpoint.connect_lazy());
        }
    };
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(watches.len(), 2_048 - 256);
    get(service.admin(), "self").await.unwrap();
    // The next one finds room when one has gone.
    drop(watches.pop());
    let again = async {
        loop {
            if health.check(HealthCheckRequest::default()).await.is_ok() {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), again).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_65_a_validate_that_waited_for_hashing_is_evaluated_again() {
    let settings = claviger::app::Settings { hashing_threads: 1, ..crate::harness::app_settings() };
    let service = Service::start_with(Engine::Sqlite, settings).await.unwrap();
    let caller = service.make_for("acme", &[scope::VALIDATE]).await;
    service.until_warm(&caller.key).await;
    for slow in 4.. {
        let asked = service.make_for("acme", &[]).await;
        let mut dear = Vec::new();
        for number in 0..slow {
            let merchant = format!("slow-{slow}-{number}");
            let slow = service.make_for(&merchant, &[]).await;
            // The dearest parameters that are allowed take about a second each; that nothing matches them does not matter.
            let edit = format!(
                "UPDATE credential SET phc = replace(phc, 'm=1024,t=1,p=1', 'm=65536,t=10,p=4') \
                 WHERE key_id = (SELECT id FROM api_key WHERE merchant_username = '{merchant}')"
            );
            service.database.by_hand().await.execute_unprepared(&edit).await.unwrap();
            dear.push(slow.key);
        }
        // Only now: making a key waits for the same thread.
        let waiting: Vec<_> = dear.iter().map(|key| ask(&service, &service.admin, key)).collect();
        eventually("the only thread has work for seconds", || async {
            (service.app.hashes_waiting() + 1 >= slow).then_some(())
        })
        .await;
        let answer = ask(&service, &caller.key, &asked.key);
        eventually("the call waits behind it, or came too late", || async {
            let waiting = service.app.hashes_waiting();
            (waiting >= slow || waiting == 0 || answer.is_finished()).then_some(())
        })
        .await;
        delete(service.admin(), &asked.id).await.unwrap();
        service.clock.advance(Duration::from_secs(3));
        // On a slow machine it may have been answered before; then more has to stand before it.
        if !answer.is_finished() {
            let answer = answer.await.unwrap().unwrap();
            assert_eq!(answer.code(), proto::DecisionCode::Deleted);
            join_all(waiting).await;
            return;
        }
    }
}

/// Validates beside the test.
fn ask(service: &Service, caller: &str, key: &str) -> tokio::task::JoinHandle<Result<proto::ValidateResponse, Status>> {
    let mut client = service.client(caller);
    let request = proto::ValidateRequest { key: key.into(), ..Default::default() };
    tokio::spawn(async move { Ok(client.validate(request).await?.into_inner()) })
}

/// Sends a request with this method and these headers, and gives the HTTP status and the gRPC status of its answer.
async fn sent(service: &Service, method: http::Method, headers: &[(&str, &str)], body: Vec<u8>) -> (u16, Status) {
    let stream = TcpStream::connect(service.address).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    let _driver = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
    let uri = format!("http://{}{}", service.address, path("Validate"));
    let mut request = http::Request::builder().method(method).uri(uri).header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut sender = sender.ready().await.unwrap();
    let (answer, mut sending) = sender.send_request(request.body(()).unwrap(), false).unwrap();
    // A server that has refused already takes no more of it.
    drop(sending.send_data(body.into(), true));
    let answer = answer.await.unwrap();
    let (code, status) = (answer.status().as_u16(), Status::from_header_map(answer.headers()));
    let mut answer = answer.into_body();
    while let Some(chunk) = answer.data().await {
        answer.flow_control().release_capacity(chunk.unwrap().len()).unwrap();
    }
    let trailers = answer.trailers().await.unwrap();
    (code, status.or_else(|| Status::from_header_map(&trailers?)).unwrap())
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], message].concat()
}

on_every_engine! {
    async fn case_94_only_grpc_calls_with_one_message_and_some_time_left_are_worked_on(service: Service) {
        let bearer = format!("Bearer {}", service.admin);
        let question = framed(&proto::ValidateRequest { key: "no key".into(), ..Default::default() }.encode_to_vec());
        let grpc = [("authorization", bearer.as_str()), ("content-type", "application/grpc")];
        let send = async |method: http::Method, headers: &[(&str, &str)], body: Vec<u8>| {
            let (code, status) = sent(&service, method, headers, body).await;
            let reason = if status.code() == Code::Ok { String::new() } else { reason(&status) };
            (code, status.code(), reason)
        };
        for kind in ["application/grpc", "application/grpc+proto"] {
            let headers = [("authorization", bearer.as_str()), ("content-type", kind)];
            let (code, status, _) = send(http::Method::POST, &headers, question.clone()).await;
            assert_eq!((code, status), (200, Code::Ok), "{kind}");
        }
        for kind in ["application/json", "application/grpc+json", "application/grpc-web"] {
            let headers = [("authorization", bearer.as_str()), ("content-type", kind)];
            let refused = send(http::Method::POST, &headers, question.clone()).await;
            assert_eq!(refused, (415, Code::Unimplemented, "METHOD_UNKNOWN".to_owned()), "{kind}");
        }
        let refused = send(http::Method::PUT, &grpc, question.clone()).await;
        assert_eq!(refused, (405, Code::Unimplemented, "METHOD_UNKNOWN".to_owned()));
        let late = [grpc[0], grpc[1], ("grpc-timeout", "0n")];
        let refused = send(http::Method::POST, &late, question.clone()).await;
        assert_eq!(refused, (200, Code::DeadlineExceeded, "DEADLINE_PASSED".to_owned()));
        let refused = send(http::Method::POST, &grpc, [question.clone(), question.clone()].concat()).await;
        assert_eq!(refused, (200, Code::InvalidArgument, "REQUEST_UNREADABLE".to_owned()));
        let (_, status, _) = send(http::Method::POST, &grpc, Vec::new()).await;
        assert_ne!(status, Code::Internal, "no message at all");
    }
}
