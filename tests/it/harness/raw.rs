//! A call put together by hand, for what no honest client sends.

use std::net::{Ipv4Addr, SocketAddr};

use h2::{Ping, client};
use prost::bytes::{BufMut, Bytes, BytesMut};
use tokio::{
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
};
use tonic::{Code, Status};

/// A call whose request has no end, for as long as this is held.
pub struct Endless {
    _body: h2::SendStream<Bytes>,
    _answer: client::ResponseFuture,
    driver: JoinHandle<Result<(), h2::Error>>,
}

impl Endless {
    /// Begins to call `path` with `key`, and waits until the server has heard of it.
    pub async fn begin(address: SocketAddr, path: &str, key: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, mut connection) = client::handshake(stream).await.unwrap();
        let mut pings = connection.ping_pong().unwrap();
        let driver = tokio::spawn(connection);
        let request = http::Request::post(format!("http://{address}{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", format!("Bearer {key}"));
        let mut sender = sender.ready().await.unwrap();
        let (answer, body) = sender.send_request(request.body(()).unwrap(), false).unwrap();
        // Frames are read in order: who answers the ping has read the request before it.
        pings.ping(Ping::opaque()).await.unwrap();
        Self { _body: body, _answer: answer, driver }
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A call whose headers are sent and whose message is not.
pub struct HeldBack {
    body: h2::SendStream<Bytes>,
    answer: client::ResponseFuture,
    driver: JoinHandle<Result<(), h2::Error>>,
}

impl HeldBack {
    /// Begins to call `path` with `key`, and waits until the server has read the headers.
    pub async fn begin(address: SocketAddr, path: &str, key: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, mut connection) = client::handshake(stream).await.unwrap();
        let mut pings = connection.ping_pong().unwrap();
        let driver = tokio::spawn(connection);
        let request = http::Request::post(format!("http://{address}{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", format!("Bearer {key}"));
        let mut sender = sender.ready().await.unwrap();
        let (answer, body) = sender.send_request(request.body(()).unwrap(), false).unwrap();
        // Frames are read in order: the server that answers the ping has read the headers before it.
        pings.ping(Ping::opaque()).await.unwrap();
        Self { body, answer, driver }
    }

    /// Sends some bytes and leaves the request unfinished.
    pub fn send(&mut self, bytes: &'static [u8]) {
        self.body.send_data(Bytes::from_static(bytes), false).unwrap();
    }

    /// Sends the message and returns the status of the answer.
    pub async fn finish(mut self, message: &[u8]) -> Status {
        // A server that has refused already takes no more of it.
        drop(self.body.send_data(framed(message), true));
        self.status().await
    }

    /// The status of the answer.
    pub async fn status(self) -> Status {
        let Self { answer, driver, body: _body } = self;
        let status = status_of(answer).await;
        driver.abort();
        status
    }
}

fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.put_slice(message);
    frame.freeze()
}

async fn status_of(answer: client::ResponseFuture) -> Status {
    let answer = answer.await.unwrap();
    let from_headers = Status::from_header_map(answer.headers());
    let mut body = answer.into_body();
    while let Some(chunk) = body.data().await {
        let length = chunk.unwrap().len();
        body.flow_control().release_capacity(length).unwrap();
    }
    let trailers = body.trailers().await.unwrap();
    from_headers
        .or_else(|| Status::from_header_map(&trailers?))
        .unwrap_or_else(|| Status::new(Code::Unknown, "the answer has no status"))
}

/// Calls `path` with these headers and one message of these bytes, and gives the status of the answer. There is no timer
/// on this side.
pub async fn call(address: SocketAddr, path: &str, headers: &[(&str, &str)], message: &[u8]) -> Status {
    call_from(Ipv4Addr::LOCALHOST, address, path, headers, message).await
}

/// The same from another address of this machine.
pub async fn call_from(
    from: Ipv4Addr,
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    message: &[u8],
) -> Status {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let stream = socket.connect(address).await.unwrap();
    let (sender, connection) = client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut request = http::Request::post(format!("http://{address}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (answer, mut body) = sender.ready().await.unwrap().send_request(request.body(()).unwrap(), false).unwrap();
    // A server that has refused already takes no more of it.
    drop(body.send_data(framed(message), true));
    let status = status_of(answer).await;
    driver.abort();
    status
}
