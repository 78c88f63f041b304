//! The bytes of requests: read in bounded time and within a budget, before any work is done for them.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use prost::bytes::{Buf, Bytes, BytesMut};
use tokio::time::{Instant, Sleep};
use tonic::{Status, body::Body};

use super::{MAX_REQUEST, proto::ErrorReason, status};
use crate::{
    admission::{Budget, CALL_BYTES, Grant, Share},
    domain::Error,
};

/// How long a request, or an item of a stream from its first byte, may take until it is complete.
pub(super) const COMPLETE_WITHIN: Duration = Duration::from_secs(2);
/// How many bytes of a refused call's body are read.
const DISCARDED_BYTES: usize = 256 * 1024;
/// When to try again if the budget is full.
pub(super) const RETRY_AFTER: Duration = Duration::from_millis(200);
/// The bytes in front of a gRPC message: whether it is compressed, and its length.
const HEAD: usize = 5;

/// A complete request, and what it holds of the budget until its call is answered.
pub(super) struct Complete {
    pub(super) body: Bytes,
    pub(super) grant: Grant,
}

/// Why a request is not complete, with what is left of its body.
pub(super) struct Incomplete {
    pub(super) status: Box<Status>,
    pub(super) rest: Body,
}

/// Reads the one message of a unary call, at most until `within` has passed.
pub(super) async fn complete(
    mut rest: Body,
    bodies: &Budget,
    share: &Share,
    within: Duration,
) -> Result<Complete, Incomplete> {
    let Ok(mut grant) = bodies.try_take_revocable(share, CALL_BYTES) else {
        return Err(Incomplete::new(overloaded(), rest));
    };
    let revoked = grant.revoked();
    let read = tokio::select! {
        biased;
        read = tokio::time::timeout(within, read(&mut rest, &mut grant)) => read.unwrap_or_else(|_late| Err(late())),
        () = revoked => Err(overloaded()),
    };
    match read {
        Ok(body) => Ok(Complete { body, grant }),
        Err(status) => Err(Incomplete::new(status, rest)),
    }
}

impl Incomplete {
    fn new(status: Status, rest: Body) -> Self {
        Self { status: Box::new(status), rest }
    }
}

async fn read(rest: &mut Body, grant: &mut Grant) -> Result<Bytes, Status> {
    let mut whole = Bytes::new();
    while let Some(frame) = rest.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if whole.is_empty() {
            whole = data;
        } else {
            let mut joined = BytesMut::from(whole);
            joined.extend_from_slice(&data);
            whole = joined.freeze();
        }
        let announced = message_length(&whole).unwrap_or(0);
        if announced > MAX_REQUEST {
            return Err(too_large());
        }
        if whole.len() > HEAD + announced && whole.len() >= HEAD {
            return Err(status::plain(
                ErrorReason::RequestUnreadable,
                "the request holds more than one message, and this RPC takes exactly one",
            ));
        }
        let wanted = CALL_BYTES + u64::try_from(whole.len().max(HEAD + announced)).unwrap_or(u64::MAX);
        if let Some(more) = wanted.checked_sub(grant.amount()).filter(|more| *more > 0) {
            grant.try_grow(more).map_err(|_full| overloaded())?;
        }
    }
    Ok(whole)
}

/// The length that the head of a message announces; none before the head is there.
fn message_length(bytes: &[u8]) -> Option<usize> {
    let [_compressed, length @ ..] = *bytes.first_chunk::<HEAD>()?;
    usize::try_from(u32::from_be_bytes(length)).ok()
}

pub(super) fn overloaded() -> Status {
    status::of(Error::Overloaded { retry_after: RETRY_AFTER })
}

fn late() -> Status {
    status::plain(
        ErrorReason::RequestIncomplete,
        "the request was not complete after 2 seconds; nothing was done, and a retry is safe",
    )
}

fn too_large() -> Status {
    status::plain(ErrorReason::RequestTooLarge, "the request is larger than 256 KiB")
}

/// Reads the body of a refused call and discards it, for a bounded time and a bounded number of bytes. Without this the
/// transport resets the stream, and many bodies that arrive after a reset end a connection that other callers share.
pub(super) fn discard(mut rest: Body, discards: &Budget, share: &Share) {
    if rest.is_end_stream() {
        return;
    }
    let Ok(grant) = discards.try_take(share, 1) else { return };
    tokio::spawn(async move {
        let _held = grant;
        let reading = async {
            let mut read = 0;
            while let Some(Ok(frame)) = rest.frame().await {
                read += frame.data_ref().map_or(0, Bytes::len);
                if read > DISCARDED_BYTES {
                    return;
                }
            }
        };
        // Past the limit the transport resets the stream after all.
        drop(tokio::time::timeout(COMPLETE_WITHIN, reading).await);
    });
}

/// The request of a stream: counts the bytes of the item that is under way, and ends the stream if the item is not complete
/// in time.
pub(super) struct ItemBody {
    inner: Body,
    bodies: Budget,
    share: Share,
    progress: Progress,
    /// While an item is under way.
    under_way: Option<UnderWay>,
}

/// Where in the sequence of messages the last byte was.
#[derive(Default)]
struct Progress {
    head: [u8; HEAD],
    /// Bytes of the head that have arrived.
    in_head: usize,
    /// Bytes of the message that are to come.
    left: usize,
    /// Messages that have begun.
    begun: u64,
}

impl Progress {
    /// Goes past these bytes.
    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let some = self.left.min(bytes.len());
                self.left -= some;
                bytes = &bytes[some..];
            } else {
                self.begun += u64::from(self.in_head == 0);
                let some = (HEAD - self.in_head).min(bytes.len());
                self.head[self.in_head..self.in_head + some].copy_from_slice(&bytes[..some]);
                self.in_head += some;
                bytes = &bytes[some..];
                if self.in_head == HEAD {
                    self.in_head = 0;
                    self.left = message_length(&self.head).unwrap_or(0);
                }
            }
        }
    }

    /// The bytes that an unfinished item has announced; none between two items.
    fn announced(&self) -> Option<usize> {
        (self.left > 0 || self.in_head > 0).then(|| self.left.max(self.in_head))
    }
}

/// An item whose first byte has arrived and whose last one has not.
struct UnderWay {
    item: u64,
    grant: Grant,
    revoked: BoxFuture<'static, ()>,
    late: Pin<Box<Sleep>>,
}

impl ItemBody {
    pub(super) fn new(inner: Body, bodies: &Budget, share: Share) -> Self {
        Self { inner, bodies: bodies.clone(), share, progress: Progress::default(), under_way: None }
    }

    /// Nothing more has arrived: an item that is under way is charged, and has to be complete in time.
    fn wait(&mut self, context: &mut Context<'_>) -> Result<(), Status> {
        let Some(announced) = self.progress.announced() else {
            self.under_way = None;
            return Ok(());
        };
        // What tonic refuses needs no room.
        let wanted = CALL_BYTES + u64::try_from(announced.min(MAX_REQUEST)).unwrap_or(0);
        let item = self.progress.begun;
        if let Some(under_way) = self.under_way.as_mut().filter(|under_way| under_way.item == item) {
            if let Some(more) = wanted.checked_sub(under_way.grant.amount()).filter(|more| *more > 0) {
                under_way.grant.try_grow(more).map_err(|_full| overloaded())?;
            }
        } else {
            let grant = self.bodies.try_take_revocable(&self.share, wanted).map_err(|_full| overloaded())?;
            let revoked = Box::pin(grant.revoked());
            let late = Box::pin(tokio::time::sleep_until(Instant::now() + COMPLETE_WITHIN));
            self.under_way = Some(UnderWay { item, grant, revoked, late });
        }
        let Some(under_way) = &mut self.under_way else { return Ok(()) };
        if under_way.revoked.as_mut().poll(context).is_ready() {
            return Err(overloaded());
        }
        if under_way.late.as_mut().poll(context).is_ready() { Err(late()) } else { Ok(()) }
    }
}

impl http_body::Body for ItemBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match Pin::new(&mut self.inner).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.progress.pass(data.chunk());
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Pending => match self.wait(context) {
                Ok(()) => Poll::Pending,
                Err(status) => Poll::Ready(Some(Err(status))),
            },
            ended @ Poll::Ready(_) => ended,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use proptest::prelude::*;

    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
        bytes.resize(HEAD + length, 7);
        bytes
    }

    proptest! {
        /// However the bytes are cut, an item is under way exactly between its first and its last byte.
        #[test]
        fn an_item_is_under_way_until_its_last_byte(
            lengths in proptest::collection::vec(0_usize..40, 1..8),
            cuts in proptest::collection::vec(1_usize..30, 1..60),
        ) {
            let bytes: Vec<u8> = lengths.iter().flat_map(|length| message(*length)).collect();
            let mut ends = vec![0];
            for length in &lengths {
                ends.push(ends[ends.len() - 1] + HEAD + length);
            }
            let (mut progress, mut at) = (Progress::default(), 0);
            for cut in cuts {
                let next = (at + cut).min(bytes.len());
                progress.pass(&bytes[at..next]);
                at = next;
                prop_assert_eq!(progress.announced().is_none(), ends.contains(&at));
            }
        }
    }

    /// A body of which these bytes have arrived.
    fn unfinished(bytes: &'static [u8]) -> Body {
        let arrived = futures_util::stream::iter([Ok::<_, Status>(Frame::data(Bytes::from_static(bytes)))]);
        Body::new(http_body_util::StreamBody::new(arrived.chain(futures_util::stream::pending())))
    }

    #[tokio::test]
    async fn a_request_that_is_not_complete_in_time_is_refused_and_holds_nothing() {
        let bodies = Budget::new(1 << 20, crate::admission::GivesWay::Newest);
        let incomplete =
            complete(unfinished(&[0, 0, 0, 0, 9, 1]), &bodies, &Share::Unlearned, Duration::ZERO).await.err().unwrap();
        assert_eq!(incomplete.status.code(), tonic::Code::DeadlineExceeded);
        assert_eq!(bodies.used(), 0);
    }

    #[tokio::test]
    async fn a_request_is_charged_for_what_it_announces_and_may_be_taken_back() {
        let bodies = Budget::new(64 * 1024, crate::admission::GivesWay::Newest);
        let (large, other) = (Share::Merchant("a".into()), Share::Merchant("b".into()));
        let mut first = Box::pin(complete(unfinished(&[0, 0, 0, 0xA0, 0, 1]), &bodies, &large, COMPLETE_WITHIN));
        assert!(futures_util::poll!(&mut first).is_pending());
        assert_eq!(bodies.used_by(&large), CALL_BYTES + 5 + 0xA000);
        let mut second = Box::pin(complete(unfinished(&[0, 0, 0, 0x80, 0, 1]), &bodies, &other, COMPLETE_WITHIN));
        assert!(futures_util::poll!(&mut second).is_pending());
        let incomplete = first.await.err().unwrap();
        assert_eq!(incomplete.status.code(), tonic::Code::ResourceExhausted);
    }
}
