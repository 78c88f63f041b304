//! Health and reflection, which need no key. They use none of the callers' permits: they are bounded by a budget of their
//! own, by peer, and when it is full the peer that holds most loses its newest call.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::{BoxFuture, Either};
use http_body::{Frame, SizeHint};
use http_body_util::Full;
use prost::bytes::Bytes;
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{
    item_body::ItemBody,
    request_body::{self, Complete, discard},
};
use crate::admission::{CallBudgets, ConnectionHandle, Grant, Share};

/// How the paths of these services begin.
const PATHS: &str = "/grpc.";
/// How the paths of the health service begin: each of its requests is one message.
const HEALTH: &str = "/grpc.health.";
/// How long such a request may take until it is complete.
const COMPLETE_WITHIN: Duration = Duration::from_secs(1);

/// Wraps a service in [`OpenCalls`].
#[derive(Clone)]
pub struct OpenCallsLayer(CallBudgets);

impl OpenCallsLayer {
    /// Within the budget of these calls in `budgets`.
    pub fn new(budgets: CallBudgets) -> Self {
        Self(budgets)
    }
}

impl<S> Layer<S> for OpenCallsLayer {
    type Service = OpenCalls<S>;

    fn layer(&self, inner: S) -> OpenCalls<S> {
        OpenCalls { budgets: self.0.clone(), inner }
    }
}

/// See the module.
#[derive(Clone)]
pub struct OpenCalls<S> {
    budgets: CallBudgets,
    inner: S,
}

impl<S> Service<http::Request<Body>> for OpenCalls<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, BoxFuture<'static, Result<http::Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if !request.uri().path().starts_with(PATHS) {
            return Either::Left(self.inner.call(request));
        }
        // The one that was polled ready is used up; its clone takes its place.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let budgets = self.budgets.clone();
        Either::Right(Box::pin(async move {
            let connection = request.extensions().get::<ConnectionHandle>();
            let share = connection.map_or(Share::Unlearned, |connection| connection.peer_share().clone());
            let (parts, body) = request.into_parts();
            let Ok(place) = budgets.open_calls.try_take_revocable(&share, 1) else {
                discard(body, &budgets.discards, &share);
                return Ok(request_body::overloaded().into_http());
            };
            let body = if parts.uri.path().starts_with(HEALTH) {
                match request_body::complete(body, &budgets.bodies, &share, COMPLETE_WITHIN).await {
                    Ok(Complete { body, .. }) => Body::new(Full::new(body)),
                    Err(incomplete) => {
                        discard(incomplete.rest, &budgets.discards, &share);
                        return Ok(incomplete.status.into_http());
                    }
                }
            } else {
                Body::new(ItemBody::new(body, &budgets.bodies, share, COMPLETE_WITHIN))
            };
            let response = inner.call(http::Request::from_parts(parts, body)).await?;
            Ok(response.map(|inner| Body::new(Revocable::new(inner, place))))
        }))
    }
}

/// An answer that ends when its place is taken back.
struct Revocable {
    /// None once it has ended.
    inner: Option<Body>,
    revoked: BoxFuture<'static, ()>,
    _place: Grant,
}

impl Revocable {
    fn new(inner: Body, place: Grant) -> Self {
        Self { inner: Some(inner), revoked: Box::pin(place.revoked()), _place: place }
    }
}

impl http_body::Body for Revocable {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.inner.is_some() && self.revoked.as_mut().poll(context).is_ready() {
            self.inner = None;
            let mut trailers = http::HeaderMap::new();
            let status = request_body::overloaded();
            return Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))));
        }
        match &mut self.inner {
            Some(inner) => Pin::new(inner).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map(http_body::Body::size_hint).unwrap_or_default()
    }
}
