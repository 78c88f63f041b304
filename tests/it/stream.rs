//! `ValidateStream`: each item by itself, and how a stream ends.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use claviger::{
    app::Settings,
    domain::{scope, secret_hash::Profile},
    grpc::proto::{self, DecisionCode, validate_stream_response::Outcome},
};
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_types::{ErrorDetails, RpcStatusExt};

use crate::{
    calls::{delete, update},
    harness::{Client, Engine, Made, Service, app_settings, key_of, reason},
};

/// Both ends of a stream.
struct Talk {
    questions: UnboundedSender<proto::ValidateStreamRequest>,
    answers: Streaming<proto::ValidateStreamResponse>,
}

impl Talk {
    async fn open(mut client: Client) -> Result<Self, Status> {
        let (questions, asked) = unbounded_channel();
        let answers = client.validate_stream(UnboundedReceiverStream::new(asked)).await?.into_inner();
        Ok(Self { questions, answers })
    }

    fn ask(&self, sequence: u64, request: proto::ValidateRequest) {
        self.questions.send(proto::ValidateStreamRequest { sequence, request: Some(request) }).unwrap();
    }

    async fn next(&mut self) -> Result<Option<(u64, Said)>, Status> {
        Ok(self.answers.message().await?.map(|answer| (answer.sequence, Said::of(answer))))
    }

    /// Asks one thing and takes its answer.
    async fn say(&mut self, key: &str) -> Result<Said, Status> {
        self.ask(1, about(key));
        Ok(self.next().await?.expect("an item is answered").1)
    }
}

/// What an item was answered with.
#[derive(Debug, PartialEq)]
enum Said {
    Decided(DecisionCode),
    /// The code, and the reason.
    Failed(Code, String, Option<Duration>),
}

impl Said {
    fn of(answer: proto::ValidateStreamResponse) -> Self {
        match answer.outcome.expect("an answer says something") {
            Outcome::Response(response) => {
                assert_eq!(response.valid, response.code() == DecisionCode::Valid);
                Self::Decided(response.code())
            }
            Outcome::Error(status) => {
                let details: ErrorDetails = status.get_error_details();
                let again = details.retry_info().and_then(|info| info.retry_delay);
                Self::Failed(Code::from(status.code), details.error_info().unwrap().reason.clone(), again)
            }
        }
    }
}

fn about(key: &str) -> proto::ValidateRequest {
    proto::ValidateRequest { key: key.to_owned(), ..Default::default() }
}

async fn many(service: &Service, count: usize) -> Vec<Made> {
    stream::iter(0..count).map(|_| service.make_for("acme", &[])).buffered(4).collect().await
}

on_every_engine! {
    async fn an_item_that_is_wrong_is_answered_by_itself_and_the_stream_goes_on(service: Service) {
        let good = service.make_for("acme", &["charge"]).await;
        let talk = Talk::open(service.admin()).await.unwrap();
        talk.ask(7, about(&good.key));
        talk.ask(8, about("no key"));
        talk.ask(9, proto::ValidateRequest { caller_ip: "nowhere".into(), ..about(&good.key) });
        // The message is small enough, and what is in it is not.
        talk.ask(10, proto::ValidateRequest { required_scopes: vec!["a".into(); 10_000], ..about(&good.key) });
        talk.ask(11, proto::ValidateRequest { required_scopes: vec!["refund".into()], ..about(&good.key) });
        talk.ask(11, about(&good.key[..good.key.len() - 1]));
        talk.questions.send(proto::ValidateStreamRequest { sequence: u64::MAX, request: None }).unwrap();
        let Talk { questions, answers } = talk;
        drop(questions);
        let mut said: Vec<(u64, Said)> =
            answers.map(|answer| answer.map(|answer| (answer.sequence, Said::of(answer))).unwrap()).collect().await;
        said.sort_by_key(|(sequence, said)| (*sequence, *said == Said::Decided(DecisionCode::Malformed)));
        let invalid = || Said::Failed(Code::InvalidArgument, "FIELDS_INVALID".into(), None);
        let expected = vec![
            (7, Said::Decided(DecisionCode::Valid)),
            (8, Said::Decided(DecisionCode::Malformed)),
            (9, invalid()),
            (10, invalid()),
            (11, Said::Decided(DecisionCode::ScopeNotGranted)),
            (11, Said::Decided(DecisionCode::Malformed)),
            (u64::MAX, Said::Decided(DecisionCode::Malformed)),
        ];
        assert_eq!(said, expected);
    }
}

on_every_engine! {
    async fn time_is_judged_for_each_item(service: Service) {
        let ttl = Some(prost_types::Duration { seconds: 60, nanos: 0 });
        let made = service.make(proto::ApiKey { ttl, ..key_of("acme", &[]) }).await;
        let mut talk = Talk::open(service.admin()).await.unwrap();
        assert_eq!(talk.say(&made.key).await.unwrap(), Said::Decided(DecisionCode::Valid));
        service.clock.advance(Duration::from_secs(60));
        assert_eq!(talk.say(&made.key).await.unwrap(), Said::Decided(DecisionCode::Expired));
    }
}

on_every_engine! {
    async fn a_right_that_is_lost_ends_the_stream_at_the_next_item(service: Service) {
        let asked = service.make_for("acme", &[]).await;
        let caller = service.make_for("acme", &[scope::VALIDATE]).await;
        let mut talks = Vec::new();
        for _ in 0..2 {
            let mut talk = Talk::open(service.client(&caller.key)).await.unwrap();
            assert_eq!(talk.say(&asked.key).await.unwrap(), Said::Decided(DecisionCode::Valid));
            talks.push(talk);
        }
        update(service.admin(), &caller.id, &["scopes"], proto::ApiKey::default()).await.unwrap();
        let status = talks[0].say(&asked.key).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "SCOPE_MISSING"));
        delete(service.admin(), &caller.id).await.unwrap();
        let status = talks[1].say(&asked.key).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "CREDENTIALS_INVALID"));
        let status = Talk::open(service.client(&caller.key)).await.err().unwrap();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "CREDENTIALS_INVALID"));
    }
}

/// One thread that takes its time for each secret.
fn slow_hashing(queue: usize) -> Settings {
    Settings { hashing_threads: 1, hashing_queue: queue, profile: Profile::Owasp, ..app_settings() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_takes_its_time_holds_up_no_other() {
    let service = Service::start_with(Engine::Sqlite, slow_hashing(1_024)).await.unwrap();
    let (cold, warm) = (many(&service, 40).await, service.make_for("acme", &[]).await);
    service.until_warm(&warm.key).await;
    let mut talk = Talk::open(service.admin()).await.unwrap();
    for (sequence, made) in (1..).zip(&cold) {
        talk.ask(sequence, about(&made.key));
    }
    talk.ask(0, about(&warm.key));
    let mut order = Vec::new();
    while order.len() < cold.len() + 1 {
        let (sequence, said) = talk.next().await.unwrap().unwrap();
        assert_eq!(said, Said::Decided(DecisionCode::Valid));
        order.push(sequence);
    }
    let place = order.iter().position(|sequence| *sequence == 0).unwrap();
    assert!(place < cold.len(), "the last one is answered last: {order:?}");
    order.sort_unstable();
    assert!(order.iter().copied().eq(0..=40), "each is answered once");
}

#[tokio::test(flavor = "multi_thread")]
async fn case_29_items_that_find_no_room_are_shed_with_a_hint_and_good_soon_after() {
    let service = Service::start_with(Engine::Sqlite, slow_hashing(4)).await.unwrap();
    let cold = many(&service, 60).await;
    let mut talk = Talk::open(service.admin()).await.unwrap();
    let runs = service.work().1;
    let (mut shed, mut good) = (0, 0);
    for (sequence, made) in (0..).zip(&cold) {
        talk.ask(sequence, about(&made.key));
    }
    while good < cold.len() {
        match talk.next().await.unwrap().unwrap() {
            (_, Said::Decided(DecisionCode::Valid)) => good += 1,
            (sequence, Said::Failed(Code::ResourceExhausted, reason, Some(_))) if reason == "OVERLOADED" => {
                shed += 1;
                talk.ask(sequence, about(&cold[usize::try_from(sequence).unwrap()].key));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(shed > 0, "a queue of 4 has no room for 60");
    assert_eq!(service.work().1 - runs, 60, "each secret is hashed once, however often it was shed");
}

#[tokio::test(flavor = "multi_thread")]
async fn case_31_a_client_that_sends_and_does_not_read_is_slowed_and_loses_nothing() {
    const ITEMS: u64 = 30_000;
    let service = Service::start(Engine::Sqlite).await.unwrap();
    let made = service.make_for("acme", &[]).await;
    service.until_warm(&made.key).await;
    let sent = Arc::new(AtomicU64::new(0));
    let (counted, key) = (Arc::clone(&sent), made.key.clone());
    let questions = stream::iter(0..ITEMS).map(move |sequence| {
        counted.fetch_add(1, Ordering::Relaxed);
        proto::ValidateStreamRequest { sequence, request: Some(about(&key)) }
    });
    let mut answers = service.admin().validate_stream(questions).await.unwrap().into_inner();
    // Others are served meanwhile.
    assert_eq!(service.decision(&made.key).await, DecisionCode::Valid);
    assert!(sent.load(Ordering::Relaxed) < ITEMS, "the windows of the connection are no larger than they are");
    let mut seen = vec![false; usize::try_from(ITEMS).unwrap()];
    while let Some(answer) = answers.message().await.unwrap() {
        let place = &mut seen[usize::try_from(answer.sequence).unwrap()];
        assert!(!std::mem::replace(place, true), "{} is answered twice", answer.sequence);
        assert_eq!(Said::of(answer), Said::Decided(DecisionCode::Valid));
    }
    assert!(seen.into_iter().all(|seen| seen));
}

#[tokio::test(flavor = "multi_thread")]
async fn case_31_a_message_over_the_limit_ends_the_stream_with_its_reason() {
    let service = Service::start(Engine::Sqlite).await.unwrap();
    let mut talk = Talk::open(service.admin()).await.unwrap();
    talk.ask(1, about(&"x".repeat(256 * 1024)));
    let status = talk.next().await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "REQUEST_TOO_LARGE"));
}

on_every_engine! {
    async fn a_shutdown_answers_what_was_read_and_ends_the_stream_with_its_reason(service: Service) {
        let mut service = service;
        let made = many(&service, 30).await;
        let mut talk = Talk::open(service.admin()).await.unwrap();
        // Something was read: so the stream is there when the server stops.
        assert_eq!(talk.say(&made[0].key).await.unwrap(), Said::Decided(DecisionCode::Valid));
        for (sequence, made) in (0..).zip(&made) {
            talk.ask(sequence, about(&made.key));
        }
        let reading = tokio::spawn(async move {
            let mut said = BTreeMap::new();
            loop {
                match talk.next().await {
                    Ok(Some((sequence, answer))) => assert!(said.insert(sequence, answer).is_none()),
                    Ok(None) => panic!("a drain says that it is one"),
                    Err(status) => return (said, status),
                }
            }
        });
        service.stop().await;
        let (said, status) = reading.await.unwrap();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "STREAM_DRAINED"));
        assert!(said.into_values().all(|said| said == Said::Decided(DecisionCode::Valid)));
    }
}
