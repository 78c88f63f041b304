//! Who calls: a tower layer in front of `ApiKeyService`.
//!
//! What comes with the headers can reject a call and never permits one: a call goes on only with exactly one well-formed
//! `authorization` whose tag verifies, and then carries a `CallerKey`, which has no authority. The caller is evaluated by
//! `CallerKey::evaluate` when the request is complete, immediately before the work; that is the only source of a
//! [`Caller`]. Health and reflection have no such layer.
//!
//! The layer also reads the one message of a unary call (`request_body`) and takes the call's permit when it is
//! complete, so that nothing that others need is held while a client takes its time.

use std::{
    convert::Infallible,
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use http::{Extensions, HeaderMap, header::AUTHORIZATION};
use http_body_util::Full;
use tonic::{Request, Status, body::Body, server::NamedService};
use tower::Service;
use zeroize::Zeroizing;

use super::{
    item_body::ItemBody,
    request_body::{self, COMPLETE_WITHIN, Complete, discard},
    status,
};
use crate::{
    admission::{CallBudgets, CallPermit, ConnectionHandle, Share},
    app::{App, Guest, Known, Rights, share_of},
    domain::{Caller, Error, KeyId, Result, ip_rules::CallerIp},
    seeded::{self, Bug},
};

/// The service behind it sees only calls whose caller presented a key string of ours.
#[derive(Clone)]
pub struct Authenticated<S> {
    app: Arc<App>,
    budgets: CallBudgets,
    inner: S,
}

/// The RPCs that may be called on remembered rights.
pub(super) const VALIDATE: &str = "/claviger.v1.ApiKeyService/Validate";
pub(super) const VALIDATE_STREAM: &str = "/claviger.v1.ApiKeyService/ValidateStream";

/// What a caller presented with the headers, and from where. It carries no authority.
pub(super) struct CallerKey {
    token: Zeroizing<String>,
    known: Known,
    peer: CallerIp,
    rights: Rights,
    budgets: CallBudgets,
    /// The caller's key and share, once it was evaluated.
    evaluated: OnceLock<(KeyId, Share)>,
    /// For one of the checker's bugs alone.
    at_headers: OnceLock<Caller>,
}

impl CallerKey {
    /// Evaluates the caller now.
    ///
    /// # Errors
    /// As [`App::authenticate`].
    pub(super) async fn evaluate(&self, app: &Arc<App>) -> Result<Caller> {
        if let Some(caller) = self.at_headers.get() {
            return Ok(caller.clone());
        }
        let caller = app.authenticate(&self.token, self.peer, self.rights).await?;
        self.evaluated.get_or_init(|| {
            let share = share_of(&caller);
            self.budgets.learn(*self.known.credential_id().as_bytes(), &share);
            (caller.key_id(), share)
        });
        Ok(caller)
    }

    /// The same for a stream on which nothing is asked: that is no use of the key.
    pub(super) async fn evaluate_unused(&self, app: &Arc<App>) -> Result<Caller> {
        app.evaluate_unused(&self.token, self.peer).await
    }

    /// The same from the cache alone; none if that cannot be.
    pub(super) fn evaluate_at_once(&self, app: &App) -> Option<Guest> {
        app.authenticate_at_once(&self.known, self.peer)
    }

    /// Whether the cache says under the lease that the caller may validate now.
    pub(super) fn may_still_validate(&self, app: &App) -> bool {
        app.may_still_validate(&self.known, self.peer)
    }

    /// On whose behalf the call holds what it holds before its caller is evaluated.
    pub(super) fn share(&self) -> Share {
        self.budgets.share_of(self.known.credential_id().as_bytes())
    }

    pub(super) fn budgets(&self) -> &CallBudgets {
        &self.budgets
    }
}

/// Leaves the caller's name on an answer that is a failure, for its line in the log.
#[derive(Clone, Copy)]
pub(super) struct CalledBy(pub(super) KeyId);

impl<S> Authenticated<S> {
    /// Puts itself in front of `inner`.
    pub fn new(app: Arc<App>, budgets: CallBudgets, inner: S) -> Self {
        Self { app, budgets, inner }
    }

    /// What the headers present.
    ///
    /// # Errors
    /// Why the call ends here.
    fn presented(&self, request: &http::Request<Body>) -> Result<CallerKey> {
        let (token, peer) = shown(request.headers(), request.extensions())?;
        let known = self.app.verify_presented(token)?;
        Ok(CallerKey {
            token: Zeroizing::new(token.to_owned()),
            known,
            peer,
            // Callers that manage keys are evaluated by what the database says now, callers that validate under the lease.
            rights: match request.uri().path() {
                VALIDATE | VALIDATE_STREAM => Rights::Remembered,
                _ => Rights::Read,
            },
            budgets: self.budgets.clone(),
            evaluated: OnceLock::new(),
            at_headers: OnceLock::new(),
        })
    }
}

impl<S: NamedService> NamedService for Authenticated<S> {
    const NAME: &'static str = S::NAME;
}

type Answering = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

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
        let key = match self.presented(&request) {
            Ok(key) => Arc::new(key),
            Err(error) => {
                let peer = peer(request.extensions()).map_or(Share::Unlearned, Share::of_peer);
                discard(request.into_body(), &self.budgets.discards, &peer);
                return Box::pin(std::future::ready(Ok(status::of(error).into_http())));
            }
        };
        request.extensions_mut().insert(Arc::clone(&key));
        let (app, share) = (Arc::clone(&self.app), key.share());
        if request.uri().path() == VALIDATE_STREAM {
            let request =
                request.map(|body| Body::new(ItemBody::new(body, &key.budgets.bodies, share, COMPLETE_WITHIN)));
            return Box::pin(async move {
                let answer = inner.call(request).await;
                Ok(key.named(answer?))
            });
        }
        Box::pin(async move {
            if seeded::bug(Bug::CallerEvaluatedAtHeaders)
                && let Ok(caller) = key.evaluate(&app).await
            {
                key.at_headers.get_or_init(|| caller);
            }
            let (parts, body) = request.into_parts();
            let Complete { body, grant } =
                match request_body::complete(body, &key.budgets.bodies, &share, COMPLETE_WITHIN).await {
                    Ok(complete) => complete,
                    Err(incomplete) => {
                        discard(incomplete.rest, &key.budgets.discards, &Share::of_peer(key.peer.address()));
                        return Ok(incomplete.status.into_http());
                    }
                };
            // Not before the request is complete, and only until the answer is made: neither waits for the client.
            let Ok(permit) = key.budgets.permits.take(&share, 1).await else {
                return Ok(request_body::overloaded().into_http());
            };
            let permit = CallPermit::new(permit);
            let mut request = http::Request::from_parts(parts, Body::new(Full::new(body)));
            request.extensions_mut().insert(permit.clone());
            let answer = inner.call(request).await;
            permit.release();
            drop(grant);
            Ok(key.named(answer?))
        })
    }
}

impl CallerKey {
    /// Leaves on an answer who called, if that was evaluated: its share, and its name if the call failed.
    fn named(&self, mut response: http::Response<Body>) -> http::Response<Body> {
        if let Some((key_id, share)) = self.evaluated.get() {
            response.extensions_mut().insert(share.clone());
            if response.headers().contains_key("grpc-status") {
                response.extensions_mut().insert(CalledBy(*key_id));
            }
        }
        response
    }
}

/// What the caller presented to the layer.
pub(super) fn caller_key<T>(request: &Request<T>) -> Result<Arc<CallerKey>, Status> {
    let key = request.extensions().get::<Arc<CallerKey>>().cloned();
    key.ok_or_else(|| status::of(Error::fault("a call got past the authentication without a key")))
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
