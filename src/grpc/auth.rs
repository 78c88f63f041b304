//! Who calls: a tower layer in front of `ApiKeyService` that judges the caller's key on each call.
//!
//! Health and reflection have no such layer. A call that gets past it carries a [`Caller`] in its extensions; a handler
//! that finds none refuses.

use std::{
    convert::Infallible,
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Extensions, HeaderMap, header::AUTHORIZATION};
use tonic::{Request, Status, body::Body, server::NamedService};
use tower::Service;
use zeroize::Zeroizing;

use super::status;
use crate::{
    admission::{ConnectionHandle, Share},
    app::{App, Guest, Known, Rights},
    domain::{Caller, Error, KeyId, Result, ip_rules::CallerIp},
};

/// The service behind it sees only callers that were judged good.
#[derive(Clone)]
pub struct Authenticated<S> {
    app: Arc<App>,
    inner: S,
}

/// The RPCs that may be called on remembered rights.
pub(super) const VALIDATE: &str = "/claviger.v1.ApiKeyService/Validate";
pub(super) const VALIDATE_STREAM: &str = "/claviger.v1.ApiKeyService/ValidateStream";

/// What a caller showed and from where, for a stream, which judges it again for each item.
pub(super) struct CallerKey {
    pub(super) token: Zeroizing<String>,
    /// None if it is no key string of ours.
    pub(super) known: Option<Known>,
    pub(super) peer: CallerIp,
}

impl CallerKey {
    /// Judges the caller once more.
    pub(super) async fn authenticate(&self, app: &Arc<App>) -> Result<Caller> {
        app.authenticate(&self.token, self.peer, Rights::Remembered).await
    }

    /// The same from memory alone; none if that cannot be.
    pub(super) fn authenticate_at_once(&self, app: &App) -> Option<Guest> {
        app.authenticate_at_once(self.known.as_ref()?, self.peer)
    }
}

/// The share of a caller: its merchant, or the key alone if it reaches all merchants.
pub(super) fn share_of(caller: &Caller) -> Share {
    if caller.reaches_all() {
        Share::Key(*caller.key_id().as_bytes())
    } else {
        Share::Merchant(caller.merchant().as_str().into())
    }
}

/// Leaves the caller's name on an answer that is a failure, for its line in the log.
#[derive(Clone, Copy)]
pub(super) struct CalledBy(pub(super) KeyId);

impl<S> Authenticated<S> {
    /// Puts itself in front of `inner`.
    pub fn new(app: Arc<App>, inner: S) -> Self {
        Self { app, inner }
    }
}

impl<S: NamedService> NamedService for Authenticated<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Authenticated<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + Unpin + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // The one that was polled ready is used up; its clone takes its place.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let (token, peer) = match shown(request.headers(), request.extensions()) {
            Ok((token, peer)) => (Zeroizing::new(token.to_owned()), peer),
            Err(error) => return refused(error),
        };
        // Whoever manages keys is judged by what the database says now; whoever asks about them, under the lease.
        let rights = match request.uri().path() {
            VALIDATE | VALIDATE_STREAM => Rights::Remembered,
            _ => Rights::Read,
        };
        let app = Arc::clone(&self.app);
        Box::pin(async move {
            match app.authenticate(&token, peer, rights).await {
                Ok(caller) => {
                    let (key_id, share) = (caller.key_id(), share_of(&caller));
                    if request.uri().path() == VALIDATE_STREAM {
                        let known = app.know(&token);
                        request.extensions_mut().insert(Arc::new(CallerKey { token, known, peer }));
                    }
                    request.extensions_mut().insert(caller);
                    Named { key_id, share, answer: Box::pin(inner.call(request)) }.await
                }
                Err(error) => refused(error).await,
            }
        })
    }
}

type Answering = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

/// The answer to a caller who is not let in.
fn refused(error: Error) -> Answering {
    Box::pin(std::future::ready(Ok(status::of(error).into_http())))
}

/// An answer that says who called, if it is a failure.
struct Named<F> {
    key_id: KeyId,
    share: Share,
    answer: F,
}

impl<F> Future for Named<F>
where
    F: Future<Output = Result<http::Response<Body>, Infallible>> + Unpin,
{
    type Output = Result<http::Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(context).map_ok(|mut response| {
            if response.headers().contains_key("grpc-status") {
                response.extensions_mut().insert(CalledBy(self.key_id));
            }
            response.extensions_mut().insert(self.share.clone());
            response
        })
    }
}

/// The caller that the layer judged good.
pub(super) fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| status::of(Error::fault("a call got past the authentication without a caller")))
}

/// What the caller of a stream showed to the layer.
pub(super) fn caller_key<T>(request: &Request<T>) -> Result<Arc<CallerKey>, Status> {
    let key = request.extensions().get::<Arc<CallerKey>>().cloned();
    key.ok_or_else(|| status::of(Error::fault("a stream got past the authentication without a key")))
}

/// What the caller shows, and from where.
pub(super) fn shown<'a>(headers: &'a HeaderMap, extensions: &Extensions) -> Result<(&'a str, CallerIp)> {
    let peer = CallerIp::new(peer(extensions)?);
    Ok((bearer(headers)?, peer))
}

fn peer(extensions: &Extensions) -> Result<IpAddr> {
    let connection = extensions.get::<ConnectionHandle>();
    connection
        .map(|connection| connection.peer().ip())
        .ok_or_else(|| Error::fault("the connection has no peer address"))
}

/// The token of the one `authorization` header. RFC 9110 compares the scheme without regard to case.
fn bearer(headers: &HeaderMap) -> Result<&str> {
    let mut shown = headers.get_all(AUTHORIZATION).iter();
    let (Some(header), None) = (shown.next(), shown.next()) else {
        let several = headers.contains_key(AUTHORIZATION);
        return Err(Error::CredentialsMissing(if several {
            "there is more than one `authorization` header"
        } else {
            "there is no `authorization` header"
        }));
    };
    let shape = "the `authorization` header is not of the form `Bearer <key string>`";
    let (scheme, token) =
        header.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(Error::CredentialsMissing(shape))?;
    if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() {
        Ok(token)
    } else {
        Err(Error::CredentialsMissing(shape))
    }
}
