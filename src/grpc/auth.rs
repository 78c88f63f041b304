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

use http::header::AUTHORIZATION;
use tonic::{Request, Status, body::Body, server::NamedService, transport::server::TcpConnectInfo};
use tower::Service;
use zeroize::Zeroizing;

use super::status;
use crate::{
    app::{App, Rights},
    domain::{Caller, Error, KeyId, Result, ip_rules::CallerIp},
};

/// The service behind it sees only callers that were judged good.
#[derive(Clone)]
pub struct Authenticated<S> {
    app: Arc<App>,
    inner: S,
}

/// The RPCs that may be called on remembered rights.
const VALIDATE: &str = "/claviger.v1.ApiKeyService/Validate";
const VALIDATE_STREAM: &str = "/claviger.v1.ApiKeyService/ValidateStream";

/// What a caller showed and from where, for a stream, which judges it again for each item.
pub(super) struct CallerKey {
    pub(super) token: Zeroizing<String>,
    pub(super) peer: CallerIp,
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
    S::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let app = Arc::clone(&self.app);
        // The one that was polled ready is used up; its clone takes its place.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        // Whoever manages keys is judged by what the database says now; whoever asks about them, under the lease.
        let path = request.uri().path();
        let is_stream = path == VALIDATE_STREAM;
        let rights = if path == VALIDATE || is_stream { Rights::Remembered } else { Rights::Read };
        let shown =
            peer(&request).and_then(|peer| Ok((Zeroizing::new(bearer(&request)?.to_owned()), CallerIp::new(peer))));
        Box::pin(async move {
            let caller = match shown {
                Ok((token, peer)) => {
                    let judged = app.authenticate(&token, peer, rights).await;
                    if is_stream {
                        request.extensions_mut().insert(Arc::new(CallerKey { token, peer }));
                    }
                    judged
                }
                Err(error) => Err(error),
            };
            match caller {
                Ok(caller) => {
                    let called_by = CalledBy(caller.key_id());
                    request.extensions_mut().insert(caller);
                    let mut response = inner.call(request).await?;
                    if response.headers().contains_key("grpc-status") {
                        response.extensions_mut().insert(called_by);
                    }
                    Ok(response)
                }
                Err(error) => Ok(status::of(error).into_http()),
            }
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

fn peer(request: &http::Request<Body>) -> Result<IpAddr> {
    let info = request.extensions().get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
    info.map(|address| address.ip()).ok_or_else(|| Error::fault("the connection has no peer address"))
}

/// The token of the one `authorization` header. RFC 9110 compares the scheme without regard to case.
fn bearer(request: &http::Request<Body>) -> Result<&str> {
    let mut headers = request.headers().get_all(AUTHORIZATION).iter();
    let (Some(header), None) = (headers.next(), headers.next()) else {
        let several = request.headers().contains_key(AUTHORIZATION);
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
