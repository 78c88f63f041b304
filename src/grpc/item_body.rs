//! The request of a stream, item by item.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http_body::Frame;
use prost::bytes::{Buf, Bytes};
use tokio::time::{Instant, Sleep};
use tonic::{Status, body::Body};

use super::{
    MAX_REQUEST,
    request_body::{HEAD, cut_off, late, message_length, overloaded},
};
use crate::admission::{Budget, CALL_BYTES, Grant, Share};

/// The request of a stream: counts the bytes of the item that is under way, and ends the stream if the item is not complete
/// in time.
pub(super) struct ItemBody {
    inner: Body,
    bodies: Budget,
    share: Share,
    /// How long an item may take from its first byte.
    within: Duration,
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
    /// The length of the message, and the bytes of it that are to come.
    length: usize,
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
                    self.length = message_length(&self.head).unwrap_or(0);
                    self.left = self.length;
                }
            }
        }
    }

    /// The bytes of an unfinished item as it was announced, with its head; none between two items.
    fn announced(&self) -> Option<usize> {
        if self.left > 0 {
            return Some(HEAD + self.length);
        }
        (self.in_head > 0).then_some(HEAD)
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
    pub(super) fn new(inner: Body, bodies: &Budget, share: Share, within: Duration) -> Self {
        Self { inner, bodies: bodies.clone(), share, within, progress: Progress::default(), under_way: None }
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
            let late = Box::pin(tokio::time::sleep_until(Instant::now() + self.within));
            self.under_way = Some(UnderWay { item, grant, revoked, late });
        }
        let Some(under_way) = &mut self.under_way else { return Ok(()) };
        if under_way.revoked.as_mut().poll(context).is_ready() {
            return Err(overloaded());
        }
        if under_way.late.as_mut().poll(context).is_ready() { Err(late(self.within)) } else { Ok(()) }
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
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(cut_off(error)))),
            ended @ Poll::Ready(None) => ended,
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

    #[test]
    fn an_unfinished_item_is_charged_as_it_was_announced() {
        let mut progress = Progress::default();
        for (bytes, announced) in [(&[0, 0, 0][..], 5), (&[1, 0], 5 + 256), (&[7; 250], 5 + 256), (&[7; 5], 5 + 256)] {
            progress.pass(bytes);
            assert_eq!(progress.announced(), Some(announced));
        }
        progress.pass(&[7]);
        assert_eq!(progress.announced(), None);
    }
}
