//! The client: HTTP/2 by the crate h2 itself, since tonic's own client takes as much of the machine as the server does.
//!
//! Headers and messages are prepared; what is left to do for a call is to send them, and to read the answer with its
//! status. All of a run is on one thread: its tasks wake each other without another core, and what is ready together
//! goes out together. A second thread of the client takes the core from the server that it is to measure.

use std::net::SocketAddr;

use h2::{
    RecvStream,
    client::{self, SendRequest},
};
use http::{HeaderMap, Request, header::HeaderValue};
use prost::{
    Message,
    bytes::{Buf, BufMut, Bytes, BytesMut},
};
use tokio::{net::TcpStream, task::JoinHandle};

use super::answers::{Answer, Decision};

pub const VALIDATE: &str = "/claviger.v1.ApiKeyService/Validate";
pub const VALIDATE_STREAM: &str = "/claviger.v1.ApiKeyService/ValidateStream";

/// What a server may send before it is told that it was read; more than is ever in flight.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 1 << 24;

/// A connection, for as long as this is held.
pub struct Connection {
    sender: SendRequest<Bytes>,
    driver: JoinHandle<()>,
}

/// How the calls of a run begin, but for the path.
#[derive(Clone)]
pub struct Head(Request<()>);

impl Connection {
    pub async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = client::Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(stream)
            .await
            .unwrap();
        // That it broke is told by the calls on it.
        let driver = tokio::spawn(async move { drop(connection.await) });
        Self { sender: sender.ready().await.unwrap(), driver }
    }

    pub async fn open_many(address: SocketAddr, connections: usize) -> Vec<Self> {
        let mut all = Vec::with_capacity(connections);
        for _ in 0..connections {
            all.push(Self::open(address).await);
        }
        all
    }

    /// Another hand on it, for one call at a time.
    pub fn sender(&self) -> SendRequest<Bytes> {
        self.sender.clone()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Head {
    pub fn new(address: SocketAddr, path: &str, authorization: &str) -> Self {
        let request = Request::post(format!("http://{address}{path}"))
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .header("authorization", HeaderValue::from_str(authorization).unwrap())
            .header("user-agent", "claviger-bench");
        Self(request.body(()).unwrap())
    }

    pub fn request(&self) -> Request<()> {
        self.0.clone()
    }
}

/// A message as gRPC frames it: not compressed, its length, itself.
pub fn framed(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.encoded_len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut frame).unwrap();
    frame.freeze()
}

/// One unary call from its beginning to its status.
pub async fn call(sender: &mut SendRequest<Bytes>, head: &Head, message: Bytes) -> Answer {
    unary(sender, head, message).await.unwrap_or(Answer::Broken)
}

async fn unary(sender: &mut SendRequest<Bytes>, head: &Head, message: Bytes) -> Result<Answer, h2::Error> {
    let (response, mut body) = sender.send_request(head.request(), false)?;
    body.send_data(message, true)?;
    let response = response.await?;
    if let Some(failed) = failure(response.headers()) {
        return Ok(failed);
    }
    let mut body = response.into_body();
    let mut message = Bytes::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        message = if message.is_empty() { chunk } else { [message, chunk].concat().into() };
    }
    let Some(trailers) = body.trailers().await? else { return Ok(Answer::Broken) };
    Ok(match failure(&trailers) {
        Some(failed) => failed,
        None if !trailers.contains_key("grpc-status") => Answer::Broken,
        None => match take_message(&mut message) {
            Some(bytes) if message.is_empty() => Decision::decode(bytes).map_or(Answer::Unreadable, Answer::from),
            _ => Answer::Unreadable,
        },
    })
}

/// The status of these headers or trailers, if they tell of one that is not OK.
pub fn failure(headers: &HeaderMap) -> Option<Answer> {
    let status = headers.get("grpc-status")?;
    let code = status.to_str().ok().and_then(|text| text.parse().ok());
    match code {
        Some(0) => None,
        Some(code) => Some(Answer::Failed(code)),
        None => Some(Answer::Unreadable),
    }
}

/// Takes the next whole message off `bytes`; none if it has not come whole.
pub fn take_message(bytes: &mut Bytes) -> Option<Bytes> {
    let length = bytes.get(1..5)?;
    let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
    if bytes.len() < 5 + length {
        return None;
    }
    bytes.advance(5);
    Some(bytes.split_to(length))
}

/// The status at the end of a stream of answers.
pub async fn ended(body: &mut RecvStream) -> Option<Answer> {
    match body.trailers().await {
        Ok(Some(trailers)) if trailers.contains_key("grpc-status") => failure(&trailers),
        _ => Some(Answer::Broken),
    }
}
