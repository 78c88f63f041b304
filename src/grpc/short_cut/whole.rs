//! Taking a request's body as a whole, if it is there already, and giving it back as it was if it is not.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http_body::{Body as _, Frame, SizeHint};
use prost::bytes::Bytes;
use tonic::{Status, body::Body};

type Polled = Option<Result<Frame<Bytes>, Status>>;

/// A body that was looked at.
pub(super) enum Asked {
    /// This is all of it.
    Whole(Bytes),
    /// It is not all there, or has more to it than one piece.
    InPieces(Replayed),
}

/// A body whose first frames were taken from it.
pub(super) struct Replayed {
    /// In the order in which they are to come.
    taken: [Option<Result<Frame<Bytes>, Status>>; 2],
    rest: Body,
}

/// Looks at the frames that have arrived.
pub(super) fn take_whole(mut body: Body, context: &mut Context<'_>) -> Asked {
    let mut whole: Option<Bytes> = None;
    loop {
        if let Some(bytes) = whole.take_if(|_| body.is_end_stream()) {
            return Asked::Whole(bytes);
        }
        let polled = match Pin::new(&mut body).poll_frame(context) {
            Poll::Ready(polled) => polled,
            Poll::Pending => return in_pieces(whole, None, body),
        };
        match into_data(polled) {
            // Some clients end their request with an empty frame.
            Ok(bytes) if whole.is_none() || bytes.is_empty() => _ = whole.get_or_insert(bytes),
            Ok(bytes) => return in_pieces(whole, Some(Ok(Frame::data(bytes))), body),
            Err(None) => return whole.map_or_else(|| in_pieces(None, None, Body::empty()), Asked::Whole),
            Err(other) => return in_pieces(whole, other, body),
        }
    }
}

/// The bytes of a frame of data, or what it is.
fn into_data(polled: Polled) -> Result<Bytes, Polled> {
    match polled {
        Some(Ok(frame)) => frame.into_data().map_err(|other| Some(Ok(other))),
        other => Err(other),
    }
}

fn in_pieces(first: Option<Bytes>, second: Polled, rest: Body) -> Asked {
    Asked::InPieces(Replayed { taken: [first.map(|bytes| Ok(Frame::data(bytes))), second], rest })
}

impl Replayed {
    /// A body that consists of these bytes.
    pub(super) fn whole(bytes: Bytes) -> Self {
        Self { taken: [Some(Ok(Frame::data(bytes))), None], rest: Body::empty() }
    }
}

impl http_body::Body for Replayed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Polled> {
        match self.taken.iter_mut().find_map(Option::take) {
            Some(taken) => Poll::Ready(Some(taken)),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.taken.iter().all(Option::is_none) && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // Nobody asks but to make room.
        SizeHint::default()
    }
}
