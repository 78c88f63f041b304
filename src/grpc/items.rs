//! The items of `ValidateStream` on the wire.
//!
//! Questions are read by the generated code. Answers are written straight into the stream's buffer from where their fields
//! are, see [`super::answer`]; so this serves the RPC in place of the generated server, which would have each of them made as
//! a message first, to be copied from there.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codec::{BufferSettings, Codec, EncodeBuf, Encoder},
};
use tonic_prost::ProstDecoder;
use tower::Service;

use super::{
    MAX_REQUEST,
    answer::{Answer, Fields, Out},
    api_keys::ApiKeys,
    auth::VALIDATE_STREAM,
    proto::{self, validate_stream_response::Outcome},
    stream::Answers,
};
use crate::domain::Result;

/// The message `ValidateStreamResponse`.
pub struct Item {
    sequence: u64,
    said: Said,
}

/// What became of the question.
pub(super) enum Said {
    Answer(Answer),
    Error(tonic_types::Status),
}

impl Item {
    pub(super) fn new(sequence: u64, said: Said) -> Self {
        Self { sequence, said }
    }

    /// The same as the generated code has it.
    ///
    /// # Errors
    /// As [`Answer::into_message`].
    pub(super) fn into_message(self) -> Result<proto::ValidateStreamResponse> {
        let outcome = match self.said {
            Said::Answer(answer) => Outcome::Response(answer.into_message()?),
            Said::Error(error) => Outcome::Error(error),
        };
        Ok(proto::ValidateStreamResponse { sequence: self.sequence, outcome: Some(outcome) })
    }
}

impl Fields for Item {
    fn put(&self, out: &mut impl Out) {
        out.number(1, self.sequence);
        match &self.said {
            Said::Answer(answer) => out.message(2, answer),
            Said::Error(error) => out.message(3, error),
        }
    }
}

/// Reads questions and writes answers.
#[derive(Default)]
struct Items;

impl Codec for Items {
    type Encode = Item;
    type Decode = proto::ValidateStreamRequest;
    type Encoder = Self;
    type Decoder = ProstDecoder<proto::ValidateStreamRequest>;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::default())
    }
}

impl Encoder for Items {
    type Item = Item;
    type Error = Status;

    fn encode(&mut self, item: Item, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.length());
        item.write(buffer);
        Ok(())
    }
}

/// Serves `ValidateStream` itself, if that is wanted, and hands on all else.
#[derive(Clone)]
pub struct Streams<S> {
    api_keys: Arc<ApiKeys>,
    short_cut: bool,
    inner: S,
}

impl<S> Streams<S> {
    /// Puts itself in front of `inner`, the generated server of `api_keys`.
    pub(super) fn new(api_keys: Arc<ApiKeys>, short_cut: bool, inner: S) -> Self {
        Self { api_keys, short_cut, inner }
    }
}

impl<S: NamedService> NamedService for Streams<S> {
    const NAME: &'static str = S::NAME;
}

type Answering = BoxFuture<'static, std::result::Result<http::Response<Body>, Infallible>>;

impl<S> Service<http::Request<Body>> for Streams<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible, Future = Answering>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Answering {
        if !self.short_cut || request.uri().path() != VALIDATE_STREAM {
            return self.inner.call(request);
        }
        let opening = Opening(Arc::clone(&self.api_keys));
        Box::pin(async move {
            let mut grpc = Grpc::new(Items).max_decoding_message_size(MAX_REQUEST);
            Ok(grpc.streaming(opening, request).await)
        })
    }
}

/// Opens streams.
struct Opening(Arc<ApiKeys>);

impl StreamingService<proto::ValidateStreamRequest> for Opening {
    type Response = Item;
    type ResponseStream = Answers;
    type Future = BoxFuture<'static, std::result::Result<Response<Answers>, Status>>;

    fn call(&mut self, request: Request<Streaming<proto::ValidateStreamRequest>>) -> Self::Future {
        let api_keys = Arc::clone(&self.0);
        Box::pin(async move { api_keys.open(request).await })
    }
}
