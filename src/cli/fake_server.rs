//! A service for tests that answers what it is told to, and remembers what it was asked.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use crate::grpc::proto::{
    self,
    api_key_service_server::{ApiKeyService, ApiKeyServiceServer},
};

/// A request, as it came in.
pub(crate) enum Asked {
    Create(proto::CreateRequest),
    Get(proto::GetRequest),
    List(proto::ListRequest),
    Update(proto::UpdateRequest),
    Delete(proto::DeleteRequest),
    Rotate(proto::RotateRequest),
    Validate(proto::ValidateRequest),
}

/// An answer to give; `Silence` gives none.
#[derive(Clone)]
pub(crate) enum Answer {
    Create(proto::CreateResponse),
    Get(proto::GetResponse),
    List(proto::ListResponse),
    Update(proto::UpdateResponse),
    Delete(proto::DeleteResponse),
    Rotate(proto::RotateResponse),
    Validate(proto::ValidateResponse),
    Refusal(Status),
    Silence,
}

/// What the service knows; shared between the server and the test.
#[derive(Clone, Default)]
pub(crate) struct FakeServer {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<Call>>>,
}

/// A request with the headers that matter.
pub(crate) struct Call {
    pub(crate) asked: Asked,
    pub(crate) authorization: String,
    pub(crate) timeout: String,
}

impl FakeServer {
    /// Serves on a free port until the test's runtime ends, and tells its address.
    pub(crate) async fn start(answers: impl IntoIterator<Item = Answer>) -> (Self, String) {
        let server = Self::default();
        locked(&server.answers).extend(answers);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let serve = Server::builder()
            .add_service(ApiKeyServiceServer::new(server.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serve);
        (server, address)
    }

    /// All requests so far, the oldest first.
    pub(crate) fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut *locked(&self.asked))
    }

    async fn answer<Q>(&self, request: Request<Q>, asked: fn(Q) -> Asked) -> Result<Answer, Status> {
        let header = |name| {
            let value = request.metadata().get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let (authorization, timeout) = (header("authorization"), header("grpc-timeout"));
        locked(&self.asked).push(Call { asked: asked(request.into_inner()), authorization, timeout });
        let answer = locked(&self.answers).pop_front();
        match answer {
            Some(Answer::Refusal(status)) => Err(status),
            Some(Answer::Silence) => std::future::pending().await,
            Some(answer) => Ok(answer),
            None => Err(Status::internal("the test has no answer to this")),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The RPCs: each remembers the question, and gives the answer that the test wrote for it.
macro_rules! rpcs {
    ($($name:ident $kind:ident $question:ident $answer:ident),+ $(,)?) => {
        #[tonic::async_trait]
        impl ApiKeyService for FakeServer {
            $(
                async fn $name(
                    &self,
                    request: Request<proto::$question>,
                ) -> Result<Response<proto::$answer>, Status> {
                    match self.answer(request, Asked::$kind).await? {
                        Answer::$kind(answer) => Ok(Response::new(answer)),
                        _ => Err(Status::internal("the test has the answer to another question")),
                    }
                }
            )+

            type ValidateStreamStream = futures_util::stream::Empty<Result<proto::ValidateStreamResponse, Status>>;

            // No command of the command line asks by a stream.
            async fn validate_stream(
                &self,
                _request: Request<tonic::Streaming<proto::ValidateStreamRequest>>,
            ) -> Result<Response<Self::ValidateStreamStream>, Status> {
                Err(Status::unimplemented("the test has no stream"))
            }
        }
    };
}

rpcs! {
    create Create CreateRequest CreateResponse,
    get Get GetRequest GetResponse,
    list List ListRequest ListResponse,
    update Update UpdateRequest UpdateResponse,
    delete Delete DeleteRequest DeleteResponse,
    rotate Rotate RotateRequest RotateResponse,
    validate Validate ValidateRequest ValidateResponse,
}

/// A key as the service might answer with.
pub(crate) fn an_api_key() -> proto::ApiKey {
    proto::ApiKey {
        id: "key_0000000000000000000001".to_owned(),
        merchant_username: "acme".to_owned(),
        display_name: "Shop checkout".to_owned(),
        masked_key: "clv_7n42DGM5Tflk9n8mt7Fhc7".to_owned(),
        allowed_ips: vec!["203.0.113.7".to_owned(), "198.51.100.0/24".to_owned()],
        webhook_format: proto::WebhookFormat::SingleJson.into(),
        scopes: vec!["payments:charge".to_owned(), "payments:refund".to_owned()],
        labels: [("team".to_owned(), "checkout".to_owned())].into(),
        state: proto::State::Active.into(),
        create_time: Some("2026-11-23T19:25:00.123456Z".parse().unwrap()),
        update_time: Some("2026-11-23T19:25:00.123456Z".parse().unwrap()),
        etag: "\"3f\"".to_owned(),
        ..proto::ApiKey::default()
    }
}

/// The key that the tests call with.
pub(crate) fn own_api_key() -> proto::ApiKey {
    proto::ApiKey {
        id: "key_0000000000000000000000".to_owned(),
        merchant_username: "claviger".to_owned(),
        ..an_api_key()
    }
}
