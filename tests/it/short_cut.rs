//! The short cut of Validate answers what the long way answers, byte by byte, and takes nothing that is not usual.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use claviger::{
    admission::{CallBudgets, Connections},
    grpc::{
        api_keys::ApiKeys,
        outer::{Outer, OuterLayer},
        proto,
        short_cut::{ShortCut, ShortCutLayer},
        stream::Ends,
    },
};
use http_body::Frame;
use prost::{
    Message,
    bytes::{BufMut, Bytes},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body, service::Routes};
use tower::{Layer, Service as _, ServiceExt};

use crate::{
    calls,
    harness::{Engine, Made, Service, key_of, root},
};

const VALIDATE: &str = "/claviger.v1.ApiKeyService/Validate";

/// Hands on, and counts.
#[derive(Clone)]
struct Counted<S> {
    calls: Arc<AtomicU64>,
    inner: S,
}

impl<S: tower::Service<http::Request<Body>>> tower::Service<http::Request<Body>> for Counted<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> S::Future {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.inner.call(request)
    }
}

/// What was sent, piece by piece; none: nothing has arrived yet, the rest comes when it is asked for again.
type Pieces = VecDeque<Option<Frame<Bytes>>>;

struct Sent(Pieces);

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.0.pop_front() {
            Some(Some(frame)) => Poll::Ready(Some(Ok(frame))),
            Some(None) => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

/// A request that can be made twice.
struct Asked {
    path: &'static str,
    headers: Vec<(&'static str, String)>,
    peer: &'static str,
    pieces: Cut,
    message: Vec<u8>,
}

/// All that a client sees of an answer.
#[derive(Debug, PartialEq)]
struct Seen {
    status: http::StatusCode,
    headers: http::HeaderMap,
    data: Vec<u8>,
    trailers: Option<http::HeaderMap>,
}

type Long = Outer<Routes>;

/// The two ways to one app.
struct Ways {
    short: ShortCut<Counted<Long>>,
    long: Long,
    handed_on: Arc<AtomicU64>,
}

impl Ways {
    fn to(service: &Service, permits: usize) -> Self {
        let ends = || Ends { stop: CancellationToken::new(), age: Duration::from_secs(3_600) };
        let budgets = CallBudgets::new(permits);
        let routes = || Routes::new(ApiKeys::server(&service.app, budgets.clone(), ends(), false));
        let handed_on = Arc::new(AtomicU64::new(0));
        let counted = Counted { calls: Arc::clone(&handed_on), inner: OuterLayer.layer(routes()) };
        let short = ShortCutLayer::new(Some(Arc::clone(&service.app))).layer(counted);
        Self { short, long: OuterLayer.layer(routes()), handed_on }
    }

    /// Asks both ways, holds the answers against each other, and tells whether the short one was taken.
    async fn ask(&mut self, asked: &Asked) -> (Seen, bool) {
        let before = self.handed_on.load(Ordering::Relaxed);
        let short = see(self.short.ready().await.unwrap().call(asked.request()).await.unwrap()).await;
        let is_short = self.handed_on.load(Ordering::Relaxed) == before;
        let long = see(self.long.ready().await.unwrap().call(asked.request()).await.unwrap()).await;
        assert_eq!(short, long, "{:?}", asked.headers);
        (short, is_short)
    }
}

async fn see(response: http::Response<Body>) -> Seen {
    let (parts, mut body) = response.into_parts();
    let (mut data, mut trailers) = (Vec::new(), None);
    while let Some(frame) =
        std::future::poll_fn(|context| http_body::Body::poll_frame(Pin::new(&mut body), context)).await
    {
        match frame.unwrap().into_data() {
            Ok(bytes) => data.extend_from_slice(&bytes),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Seen { status: parts.status, headers: parts.headers, data, trailers }
}

impl Seen {
    fn response(&self) -> proto::ValidateResponse {
        assert_eq!(self.trailers.as_ref().unwrap()["grpc-status"], "0");
        proto::ValidateResponse::decode(&self.data[5..]).unwrap()
    }
}

fn framed(message: &[u8]) -> Bytes {
    let mut bytes = vec![0];
    bytes.put_u32(u32::try_from(message.len()).unwrap());
    bytes.put_slice(message);
    bytes.into()
}

/// Makes pieces of a whole.
type Cut = fn(Bytes) -> Pieces;

fn data(bytes: &[u8]) -> Frame<Bytes> {
    Frame::data(Bytes::copy_from_slice(bytes))
}

impl Asked {
    /// As a client asks it.
    fn usual(caller: &str, request: &proto::ValidateRequest) -> Self {
        Self {
            path: VALIDATE,
            headers: vec![
                ("content-type", "application/grpc".to_owned()),
                ("te", "trailers".to_owned()),
                ("authorization", format!("Bearer {caller}")),
            ],
            peer: "127.0.0.1:4242",
            pieces: |bytes| [Some(Frame::data(bytes))].into(),
            message: request.encode_to_vec(),
        }
    }

    fn request(&self) -> http::Request<Body> {
        let mut request = http::Request::post(self.path);
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let mut request = request.body(Body::new(Sent((self.pieces)(framed(&self.message))))).unwrap();
        let (place, _) = Connections::new(1).admit(self.peer.parse().unwrap());
        request.extensions_mut().insert(place.handle().clone());
        request
    }
}

/// A service with one key of each fate, all in memory.
struct Population {
    service: Service,
    keys: Vec<String>,
    valid: String,
}

async fn population() -> Population {
    let service = Service::start(Engine::Sqlite).await.unwrap();
    let labels = [("shop", "7"), ("till", "")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let in_an_hour = Some(crate::harness::after_beginning(Duration::from_secs(3_600)));
    let full = proto::ApiKey {
        display_name: "Till №4".into(),
        allowed_ips: vec!["192.0.2.0/24".into(), "2001:db8::/32".into()],
        denied_ips: vec!["192.0.2.9".into()],
        webhook_format: proto::WebhookFormat::MultipleJson.into(),
        labels,
        expire_time: in_an_hour,
        ..key_of("acme", &["charge", "refund"])
    };
    let [valid, plain, deleted, rotated] =
        [full, key_of("acme", &["charge"]), key_of("globex", &[]), key_of("acme", &["charge"])];
    let valid = service.make(valid).await;
    let plain = service.make(plain).await;
    let disabled = service.make(proto::ApiKey { disabled: true, ..key_of("acme", &["charge"]) }).await;
    let later = proto::ApiKey { not_before_time: in_an_hour, ..key_of("acme", &["charge"]) };
    let later = service.make(later).await;
    let deleted = service.make(deleted).await;
    calls::delete(service.admin(), &deleted.id).await.unwrap();
    let rotated = service.make(rotated).await;
    let overlapping = calls::rotate(service.admin(), &rotated.id, 600).await.unwrap().key;
    let forged = service.app.key_format().mint(&root('0', 9), &mut rand::rngs::SysRng).unwrap();
    let absent = service.app.key_format().mint(&root('0', 7), &mut rand::rngs::SysRng).unwrap();
    let made = |made: &Made| made.key.clone();
    let mut keys = [&valid, &plain, &disabled, &later, &deleted, &rotated].map(made).to_vec();
    keys.extend([overlapping, absent.reveal().to_owned(), forged.reveal().to_owned()]);
    keys.extend(["no key".to_owned(), String::new(), "ß".repeat(60), format!("{}!", valid.key)]);
    for key in &keys {
        service.until_warm(key).await;
    }
    service.until_warm(&service.admin).await;
    Population { valid: valid.key, keys, service }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ways_give_the_same_bytes_and_decisions_from_memory_are_short() {
    let Population { service, keys, .. } = population().await;
    let mut ways = Ways::to(&service, 100);
    let mut short = 0;
    for key in &keys {
        for caller_ip in ["", "192.0.2.1", "192.0.2.9", "2001:DB8::1", "203.0.113.1", "::ffff:192.0.2.1", "nowhere"] {
            for scopes in [&[][..], &["charge"], &["charge", "charge", "refund"], &["payout", "charge"], &["Ünfit"]] {
                let request = proto::ValidateRequest {
                    key: key.clone(),
                    caller_ip: caller_ip.to_owned(),
                    required_scopes: scopes.iter().map(ToString::to_string).collect(),
                    min_revision: String::new(),
                };
                let (seen, is_short) = ways.ask(&Asked::usual(&service.admin, &request)).await;
                assert_eq!(is_short, caller_ip != "nowhere" && scopes != ["Ünfit"], "{caller_ip} {scopes:?}");
                if is_short {
                    seen.response();
                    short += 1;
                }
            }
        }
    }
    assert_eq!(short, keys.len() * 6 * 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_is_awaited_either_way() {
    let Population { service, valid, .. } = population().await;
    let mut ways = Ways::to(&service, 100);
    let question = |min_revision: &str| {
        let request = proto::ValidateRequest {
            key: valid.clone(),
            caller_ip: "192.0.2.1".into(),
            min_revision: min_revision.to_owned(),
            ..Default::default()
        };
        Asked::usual(&service.admin, &request)
    };
    let (seen, _) = ways.ask(&question("")).await;
    let now = seen.response().revision;
    assert!(ways.ask(&question(&now)).await.1, "memory is as young as that");
    let (epoch, seq) = now.rsplit_once('.').unwrap();
    let ahead = format!("{epoch}.{}", seq.parse::<i64>().unwrap() + 1);
    for other in [ahead.as_str(), "another.1", "gibberish"] {
        assert!(!ways.ask(&question(other)).await.1, "{other}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_who_are_not_simply_let_in_go_the_long_way() {
    let Population { service, valid, .. } = population().await;
    let tied = proto::ApiKey { allowed_ips: vec!["10.0.0.0/8".into()], ..key_of("acme", &["claviger:validate"]) };
    let tied = service.make(tied).await.key;
    let stranger = service.make_for("globex", &["claviger:validate"]).await.key;
    let powerless = service.make_for("acme", &["charge"]).await.key;
    for caller in [&tied, &stranger, &powerless] {
        service.until_warm(caller).await;
    }
    let mut ways = Ways::to(&service, 100);
    let request = proto::ValidateRequest { key: valid, caller_ip: "192.0.2.1".into(), ..Default::default() };
    for (caller, peer, is_short) in [
        (tied.as_str(), "10.1.2.3:1", true),
        (tied.as_str(), "192.0.2.1:1", false),
        (stranger.as_str(), "127.0.0.1:1", true),
        (powerless.as_str(), "127.0.0.1:1", false),
        ("no key", "127.0.0.1:1", false),
        ("", "127.0.0.1:1", false),
    ] {
        let asked = Asked { peer, ..Asked::usual(caller, &request) };
        assert_eq!(ways.ask(&asked).await.1, is_short, "{peer}");
    }
    let mut twice = Asked::usual(&service.admin, &request);
    twice.headers.push(("authorization", format!("Bearer {}", service.admin)));
    assert!(!ways.ask(&twice).await.1);
    let mut never = Asked::usual(&service.admin, &request);
    never.headers.pop();
    assert!(!ways.ask(&never).await.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_a_request_arrives_it_is_answered_the_same() {
    let Population { service, valid, .. } = population().await;
    let mut ways = Ways::to(&service, 100);
    let request = proto::ValidateRequest { key: valid, caller_ip: "192.0.2.1".into(), ..Default::default() };
    let pieces: [(Cut, bool); 13] = [
        (|whole| [Some(Frame::data(whole))].into(), true),
        (|whole| [Some(Frame::data(whole)), Some(data(b""))].into(), true),
        (|whole| [Some(data(b"")), Some(Frame::data(whole))].into(), false),
        (|whole| [None, Some(Frame::data(whole))].into(), false),
        (|whole| [Some(Frame::data(whole)), None].into(), false),
        (|whole| [Some(data(&whole[..3])), Some(data(&whole[3..9])), None, Some(data(&whole[9..]))].into(), false),
        (|whole| [Some(Frame::data(whole)), Some(Frame::trailers(http::HeaderMap::new()))].into(), false),
        (|whole| [Some(Frame::data(whole.clone())), Some(Frame::data(whole))].into(), false),
        (|whole| [Some(data(&whole[..whole.len() - 1]))].into(), false),
        (|whole| [Some(data(&[&whole, &b"\0"[..]].concat()))].into(), false),
        (|whole| [Some(data(&[&[1], &whole[1..]].concat()))].into(), false),
        (|_| [].into(), false),
        (|_| [Some(data(&framed(&[0xFF; 40])))].into(), false),
    ];
    for (number, (pieces, is_short)) in pieces.into_iter().enumerate() {
        let asked = Asked { pieces, ..Asked::usual(&service.admin, &request) };
        assert_eq!(ways.ask(&asked).await.1, is_short, "{number}");
    }
    let headers = [
        ("content-type", "application/grpc+proto", false),
        ("grpc-encoding", "identity", false),
        ("grpc-encoding", "gzip", false),
        ("grpc-timeout", "5S", true),
        ("grpc-accept-encoding", "gzip", true),
    ];
    for (name, value, is_short) in headers {
        let mut asked = Asked::usual(&service.admin, &request);
        asked.headers.retain(|(other, _)| *other != name);
        asked.headers.push((name, value.to_owned()));
        assert_eq!(ways.ask(&asked).await.1, is_short, "{name}: {value}");
    }
    // Fields of a later version are overlooked.
    let mut asked = Asked::usual(&service.admin, &request);
    asked.message.extend([0x98, 0x06, 1]);
    assert!(ways.ask(&asked).await.1);
    let other = Asked { path: "/claviger.v1.ApiKeyService/Nothing", ..Asked::usual(&service.admin, &request) };
    assert!(!ways.ask(&other).await.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_not_read_holds_no_permit() {
    let Population { service, valid, .. } = population().await;
    let mut ways = Ways::to(&service, 1);
    let request = proto::ValidateRequest { key: valid, caller_ip: "192.0.2.1".into(), ..Default::default() };
    let asked = Asked::usual(&service.admin, &request);
    let short: Result<_, Infallible> = ways.short.ready().await.unwrap().call(asked.request()).await;
    let long: Result<_, Infallible> = ways.long.ready().await.unwrap().call(asked.request()).await;
    assert!(ways.ask(&asked).await.1);
    for unread in [short, long] {
        see(unread.unwrap()).await.response();
    }
}
