//! The body of an answer whose bytes count until the transport has dropped them.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http_body::{Body as _, Frame, SizeHint};
use prost::bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::{Status, body::Body};

use super::{
    super::status,
    ahead::{Ahead, hold},
    overloaded,
    page::Page,
};
use crate::admission::{AnswerBudgets, OpenCall, Share, UnreadAnswer};

/// The most bytes that are handed to the transport at once.
const CHUNK: usize = 16 * 1024;
/// The most bytes of a stream that the transport may hold before it is given more: enough for a full window of the client
/// while the next items are written.
const STREAM_AHEAD: usize = 64 * 1024;

/// How an answer is handed to the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// All of it, since it is small and the call is to cost as little as possible.
    AtOnce,
    /// In chunks, each when the one before was dropped, and the trailers when all was. So the stream can still be reset while
    /// its client does not read.
    InChunks,
    /// The same, for a page, which holds a part of a budget.
    Page,
    /// As it comes, as long as the transport holds little of it.
    Stream,
}

/// See the module.
pub struct CountedBody {
    /// None once it has ended.
    inner: Option<Body>,
    counted: Option<Counted>,
}

struct Counted {
    call: OpenCall,
    pace: Pace,
    budgets: Arc<AnswerBudgets>,
    /// The share of a page.
    share: Option<Share>,
    /// What was not handed to the transport yet.
    rest: Rest,
    /// What comes after that, if it was there already.
    next: Option<Result<Frame<Bytes>, Status>>,
    ahead: Option<Arc<Ahead>>,
    made: Option<Instant>,
    /// Until when the client has to accept some of so many bytes.
    wait: Option<(usize, Pin<Box<Sleep>>)>,
}

enum Rest {
    Nothing,
    /// With what counts it.
    Bytes(Bytes, UnreadAnswer),
    Page(Page),
}

impl CountedBody {
    pub(super) fn uncounted(inner: Body) -> Self {
        Self { inner: Some(inner), counted: None }
    }

    pub(super) fn new(
        inner: Body,
        call: OpenCall,
        pace: Pace,
        budgets: Arc<AnswerBudgets>,
        share: Option<Share>,
    ) -> Self {
        // What has no content beside its headers is on its way already.
        let ahead = (pace != Pace::AtOnce && !inner.is_end_stream()).then(Arc::default);
        let counted =
            Counted { call, pace, budgets, share, rest: Rest::Nothing, next: None, ahead, made: None, wait: None };
        Self { inner: Some(inner), counted: Some(counted) }
    }
}

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some(counted) = &mut this.counted else { return poll_inner(&mut this.inner, context) };
        match counted.pace {
            Pace::AtOnce => {
                poll_inner(&mut this.inner, context).map_ok(|frame| frame.map_data(|bytes| counted.held(bytes)))
            }
            Pace::Stream => {
                ready!(counted.poll_drained(STREAM_AHEAD, context))?;
                poll_inner(&mut this.inner, context).map_ok(|frame| frame.map_data(|bytes| counted.held(bytes)))
            }
            Pace::InChunks | Pace::Page => {
                ready!(counted.poll_drained(1, context))?;
                counted.poll_chunk(&mut this.inner, context)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let is_pending = |counted: &Counted| counted.next.is_some() || !matches!(counted.rest, Rest::Nothing);
        self.inner.as_ref().is_none_or(Body::is_end_stream) && !self.counted.as_ref().is_some_and(is_pending)
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.inner, &self.counted) {
            (Some(inner), None) => inner.size_hint(),
            _ => SizeHint::default(),
        }
    }
}

fn poll_inner(inner: &mut Option<Body>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
    let Some(body) = inner else { return Poll::Ready(None) };
    let polled = Pin::new(body).poll_frame(context);
    if matches!(&polled, Poll::Ready(None | Some(Err(_)))) {
        *inner = None;
    }
    polled
}

impl Counted {
    fn held(&self, bytes: Bytes) -> Bytes {
        hold(bytes, self.call.connection(), self.ahead.as_ref())
    }

    /// Ready when the transport holds fewer than so many bytes of this answer.
    ///
    /// # Errors
    /// The client accepts none of them, or not all in time.
    fn poll_drained(&mut self, below: usize, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let Some(ahead) = &self.ahead else { return Poll::Ready(Ok(())) };
        let held = ahead.bytes(below, context.waker());
        if held < below {
            self.wait = None;
            return Poll::Ready(Ok(()));
        }
        if let Rest::Page(page) = &self.rest
            && page.is_taken_back()
        {
            return Poll::Ready(Err(reset()));
        }
        if self.wait.as_ref().is_none_or(|(before, _)| *before != held) {
            self.wait = Some((held, Box::pin(sleep_until(self.wait_until()))));
        }
        if let Some((_, wait)) = &mut self.wait {
            ready!(wait.as_mut().poll(context));
        }
        Poll::Ready(Err(reset()))
    }

    /// Until when the client has to accept some of what the transport holds, from now on.
    fn wait_until(&mut self) -> Instant {
        let (now, limits) = (Instant::now(), self.budgets.limits());
        let made = *self.made.get_or_insert(now);
        match self.pace {
            // A stream has no end by which it would have to be sent.
            Pace::Stream => now + limits.stall,
            _ => (now + limits.stall).min(made + limits.sent_within),
        }
    }

    /// The next chunk, or the trailers once all was sent. Nothing of this answer is held by the transport.
    fn poll_chunk(
        &mut self,
        inner: &mut Option<Body>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            match mem::replace(&mut self.rest, Rest::Nothing) {
                Rest::Bytes(mut bytes, unread) => {
                    let chunk = bytes.split_to(CHUNK.min(bytes.len()));
                    if bytes.is_empty() {
                        return self.frame(&chunk);
                    }
                    self.rest = Rest::Bytes(bytes, unread);
                    return self.frame(&chunk);
                }
                Rest::Page(page) => match page.next_chunk(CHUNK) {
                    None => return Poll::Ready(Some(Err(reset()))),
                    Some(chunk) if chunk.is_empty() => {}
                    Some(chunk) => {
                        self.rest = Rest::Page(page);
                        return self.frame(&chunk);
                    }
                },
                Rest::Nothing => {}
            }
            let frame = match self.next.take() {
                Some(next) => Some(next),
                None => ready!(poll_inner(inner, context)),
            };
            let Some(frame) = frame.transpose()? else { return Poll::Ready(None) };
            self.made = None;
            match frame.into_data() {
                Ok(bytes) => {
                    self.look_ahead(inner, context);
                    if bytes.len() <= CHUNK {
                        return self.frame(&bytes);
                    }
                    if let Err(trailers) = self.keep(bytes) {
                        (*inner, self.next) = (None, None);
                        return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                    }
                }
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            }
        }
    }

    /// Takes the trailers as soon as they are there, and frees what the codec holds for further messages: that may be more
    /// than the answer itself.
    fn look_ahead(&mut self, inner: &mut Option<Body>, context: &mut Context<'_>) {
        if let Poll::Ready(next) = poll_inner(inner, context) {
            if next.as_ref().is_none_or(|next| next.as_ref().is_ok_and(Frame::is_trailers)) {
                *inner = None;
            }
            self.next = next;
        }
    }

    /// Keeps bytes to hand them on in chunks.
    ///
    /// # Errors
    /// The trailers of a refusal if the caller has left too many pages unread.
    fn keep(&mut self, bytes: Bytes) -> Result<(), http::HeaderMap> {
        let (Pace::Page, Some(share), Some(ahead)) = (self.pace, &self.share, &self.ahead) else {
            let unread = self.call.connection().count_unread(bytes.len());
            self.rest = Rest::Bytes(bytes, unread);
            return Ok(());
        };
        match Page::keep(bytes, &self.budgets, share, ahead) {
            Some(page) => {
                self.rest = Rest::Page(page);
                Ok(())
            }
            None => Err(refusal()),
        }
    }

    /// A chunk of its own memory: a part of a large buffer would keep all of it.
    fn frame(&self, chunk: &[u8]) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(Some(Ok(Frame::data(self.held(Bytes::copy_from_slice(chunk))))))
    }
}

/// The trailers of a call that is refused although its answer has begun.
fn refusal() -> http::HeaderMap {
    let status = status::of(overloaded());
    let mut trailers = http::HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        trailers.insert(Status::GRPC_STATUS, http::HeaderValue::from(status.code() as i32));
    }
    trailers
}

/// Resets the stream, with the code that clients understand as `RESOURCE_EXHAUSTED`.
fn reset() -> Status {
    Status::from_error(Box::new(h2::Error::from(h2::Reason::ENHANCE_YOUR_CALM)))
}
