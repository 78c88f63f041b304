//! Around every call, outside all else: answers count from when they are made until the transport has dropped their bytes.
//!
//! That hyper polled a body proves nothing: it takes the first chunk before it asks for a window, and a window of one byte
//! moves a whole chunk into h2. So the bytes themselves carry what counts them ([`CountedBody`]).

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Extensions;
use tonic::body::Body;
use tower::{Layer, Service};

mod ahead;
mod counted_body;
mod page;

pub use self::counted_body::CountedBody;
use self::counted_body::Pace;
use super::{
    SERVICE,
    auth::{VALIDATE, VALIDATE_STREAM},
    status,
};
use crate::{
    admission::{AnswerBudgets, ConnectionHandle, OpenCall, Share},
    domain::{Error, Result},
};

/// When to come back if the caller has left too many answers unread.
const RETRY_AFTER: Duration = Duration::from_secs(1);
const LIST: &str = "/claviger.v1.ApiKeyService/List";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
/// What takes rights away is never refused for what its caller has not read.
const REVOCATIONS: [&str; 3] = ["Delete", "Update", "Rotate"];

/// Wraps a service in [`UnsentAnswers`].
#[derive(Clone)]
pub struct UnsentAnswersLayer(Arc<AnswerBudgets>);

impl UnsentAnswersLayer {
    /// Counts answers against `budgets`.
    pub fn new(budgets: Arc<AnswerBudgets>) -> Self {
        Self(budgets)
    }
}

impl<S> Layer<S> for UnsentAnswersLayer {
    type Service = UnsentAnswers<S>;

    fn layer(&self, inner: S) -> UnsentAnswers<S> {
        UnsentAnswers { budgets: Arc::clone(&self.0), inner }
    }
}

/// See the module.
#[derive(Clone)]
pub struct UnsentAnswers<S> {
    budgets: Arc<AnswerBudgets>,
    inner: S,
}

impl<S> Service<http::Request<Body>> for UnsentAnswers<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = http::Response<CountedBody>;
    type Error = Infallible;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let pace = match path {
            VALIDATE => Pace::AtOnce,
            LIST => Pace::Page,
            VALIDATE_STREAM | WATCH => Pace::Stream,
            _ => Pace::InChunks,
        };
        let Some(connection) = request.extensions().get::<ConnectionHandle>() else {
            return Answering::Uncounted(self.inner.call(request));
        };
        if connection.is_over_budget() && !connection.has_several_callers() && is_refusable(path) {
            return Answering::Refused;
        }
        let call = connection.open_call();
        if pace == Pace::Page {
            request.extensions_mut().insert(Arc::clone(&self.budgets));
        }
        let (budgets, answer) = (Arc::clone(&self.budgets), self.inner.call(request));
        Answering::Counted { answer, counted: Some(Counted { call, pace, budgets }) }
    }
}

/// Whether a call may be refused for what its caller has not read.
fn is_refusable(path: &str) -> bool {
    let method = path.strip_prefix('/').and_then(|path| path.strip_prefix(SERVICE)?.strip_prefix('/'));
    method.is_some_and(|method| !REVOCATIONS.contains(&method))
}

/// Refuses a List before its work if its caller has left so many pages unread that a further one may not fit.
pub(super) fn require_room_for_page(extensions: &Extensions, share: &Share, largest: usize) -> Result<()> {
    let budgets = extensions.get::<Arc<AnswerBudgets>>();
    match budgets {
        Some(budgets) if !budgets.may_make_page(share, largest as u64) => Err(overloaded()),
        _ => Ok(()),
    }
}

fn overloaded() -> Error {
    Error::Overloaded { retry_after: RETRY_AFTER }
}

/// What an answer is counted with.
struct Counted {
    call: OpenCall,
    pace: Pace,
    budgets: Arc<AnswerBudgets>,
}

/// An answer that is waited for.
pub enum Answering<F> {
    /// It will be counted on its connection.
    #[expect(private_interfaces, reason = "it is named by nothing but this module")]
    Counted {
        /// The answer.
        answer: F,
        /// None once the answer was made.
        counted: Option<Counted>,
    },
    /// The call came without a connection, as in tests of layers.
    Uncounted(F),
    /// The caller has left too many answers unread.
    Refused,
}

impl<F> Future for Answering<F>
where
    F: Future<Output = Result<http::Response<Body>, Infallible>> + Unpin,
{
    type Output = Result<http::Response<CountedBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Refused => Poll::Ready(Ok(status::of(overloaded()).into_http().map(CountedBody::uncounted))),
            Self::Uncounted(answer) => {
                Pin::new(answer).poll(context).map_ok(|response| response.map(CountedBody::uncounted))
            }
            Self::Counted { answer, counted } => Pin::new(answer).poll(context).map_ok(|response| {
                let Some(Counted { call, pace, budgets }) = counted.take() else {
                    return response.map(CountedBody::uncounted);
                };
                let share = response.extensions().get::<Share>();
                if let Some(share) = share {
                    call.connection().note_authenticated(share);
                }
                let share = (pace == Pace::Page).then(|| share.cloned().unwrap_or_else(|| call.connection().share()));
                response.map(|body| CountedBody::new(body, call, pace, budgets, share))
            }),
        }
    }
}
