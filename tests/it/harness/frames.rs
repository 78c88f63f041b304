//! A client of HTTP/2 that is written frame by frame, for what no library sends.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const INITIAL_WINDOW_SIZE: u16 = 4;

/// A frame that was read.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A connection, frame by frame.
pub struct Frames {
    pub read: OwnedReadHalf,
    pub write: OwnedWriteHalf,
    next: u32,
}

/// A TCP connection from one of this machine's own addresses.
pub async fn connect_from(from: Ipv4Addr, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    socket.connect(address).await.unwrap()
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The headers of a call, compressed without any state.
fn headers(path: &str, key: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "claviger"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("authorization", &format!("Bearer {key}")),
    ] {
        // A literal that is not indexed, both lengths below 127.
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    block
}

impl Frames {
    /// Connects and announces this window for each stream.
    pub async fn connect(address: SocketAddr, window: u32) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap(), window).await
    }

    pub async fn over(stream: TcpStream, window: u32) -> Self {
        stream.set_nodelay(true).unwrap();
        let (read, write) = stream.into_split();
        let mut frames = Self { read, write, next: 1 };
        let setting = [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &window.to_be_bytes()].concat();
        frames.write.write_all(PREFACE).await.unwrap();
        assert!(frames.send(SETTINGS, 0, 0, &setting).await);
        frames
    }

    /// Writes a frame. False if the connection is closed.
    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.write.write_all(&frame(kind, flags, stream, payload)).await.is_ok()
    }

    /// Begins a call with `key` and sends these flags with its headers. Returns its stream, or none if the connection is closed.
    pub async fn begin(&mut self, path: &str, key: &str, flags: u8) -> Option<u32> {
        let stream = self.next;
        self.next += 2;
        self.send(HEADERS, flags, stream, &headers(path, key)).await.then_some(stream)
    }

    /// Begins and resets calls, all in one write, so that the server reads the resets with the calls.
    pub async fn begin_and_reset(&mut self, path: &str, key: &str, calls: u32) {
        let mut bytes = Vec::new();
        for _ in 0..calls {
            let stream = self.next;
            self.next += 2;
            bytes.extend(frame(HEADERS, END_HEADERS, stream, &headers(path, key)));
            bytes.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
        }
        self.write.write_all(&bytes).await.unwrap();
    }

    /// Makes a unary call whose request is sent as a whole.
    pub async fn call(&mut self, path: &str, key: &str, message: &[u8]) -> Option<u32> {
        let stream = self.begin(path, key, END_HEADERS).await?;
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let body = [&[0][..], &length, message].concat();
        self.send(DATA, END_STREAM, stream, &body).await.then_some(stream)
    }

    /// The next frame; none if the connection is closed.
    pub async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.read.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.read.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame for which `wanted` holds; none if the connection is closed before.
    pub async fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }
}
