//! The bytes of requests: read in bounded time and within a budget, before any work is done for them.

use std::time::Duration;

use http_body::Body as _;
use http_body_util::BodyExt as _;
use prost::bytes::{Bytes, BytesMut};
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
pub(super) const HEAD: usize = 5;

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
        read = tokio::time::timeout(within, read(&mut rest, &mut grant)) => read.unwrap_or_else(|_late| Err(late(within))),
        () = revoked => Err(overloaded()),
    };
    match read {
        // From here on the call is worked on, and nothing would notice that its bytes were taken back.
        Ok(body) => match grant.keep() {
            Ok(()) => Ok(Complete { body, grant }),
            Err(_full) => Err(Incomplete::new(overloaded(), rest)),
        },
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
        let Ok(data) = frame.map_err(cut_off)?.into_data() else { continue };
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
pub(super) fn message_length(bytes: &[u8]) -> Option<usize> {
    let [_compressed, length @ ..] = *bytes.first_chunk::<HEAD>()?;
    usize::try_from(u32::from_be_bytes(length)).ok()
}

pub(super) fn overloaded() -> Status {
    status::of(Error::Overloaded { retry_after: RETRY_AFTER })
}

pub(super) fn late(within: Duration) -> Status {
    let time = match within.as_secs() {
        1 => "1 second".to_owned(),
        seconds => format!("{seconds} seconds"),
    };
    let message = format!("the request was not complete after {time}; nothing was done, and a retry is safe");
    status::plain(ErrorReason::RequestIncomplete, &message)
}

/// A body that ended with an error: its client reset the call, or the connection broke. That is no fault of ours.
pub(super) fn cut_off(_error: Status) -> Status {
    status::plain(ErrorReason::RequestUnreadable, "the request was cut off before it was complete")
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

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use http_body::Frame;

    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
        bytes.resize(HEAD + length, 7);
        bytes
    }

    #[tokio::test]
    async fn a_complete_request_is_not_taken_back() {
        let bodies = Budget::new(64 * 1024, crate::admission::GivesWay::Newest);
        let (large, other) = (Share::Merchant("a".into()), Share::Merchant("b".into()));
        let body = Body::new(http_body_util::Full::new(Bytes::from(message(40 * 1024))));
        let held = complete(body, &bodies, &large, COMPLETE_WITHIN).await.ok().unwrap();
        // There is no room for this one, and nothing that could give way.
        let second =
            complete(unfinished(&[0, 0, 0, 0x80, 0, 1]), &bodies, &other, COMPLETE_WITHIN).await.err().unwrap();
        assert_eq!(second.status.code(), tonic::Code::ResourceExhausted);
        assert!(!held.grant.is_revoked());
        assert_eq!(bodies.used(), held.grant.amount());
    }

    #[tokio::test]
    async fn a_body_that_its_client_cut_off_is_no_fault_of_ours() {
        let broken = futures_util::stream::iter([Err::<Frame<Bytes>, _>(Status::internal("h2 protocol error"))]);
        let bodies = Budget::new(1 << 20, crate::admission::GivesWay::Newest);
        let body = Body::new(http_body_util::StreamBody::new(broken));
        let cut = complete(body, &bodies, &Share::Unlearned, COMPLETE_WITHIN).await.err().unwrap();
        assert_eq!(cut.status.code(), tonic::Code::InvalidArgument);
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
