//! A connection whose handshakes are complete: plaintext or TLS, with its place among all connections.
//!
//! It sees every byte in clear, so this is where a client is noticed that accepts none, or that sends frames without a call
//! in them ([`super::frames`]).

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep_until},
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::{frames::FrameMeter, handshake::PREFACE};
use crate::admission::{CloseReason, ConnectionHandle, Place};

/// What bytes go through.
pub(super) enum Wire {
    /// As they are.
    Plain(TcpStream),
    /// Encrypted.
    Tls(Box<TlsStream<TcpStream>>),
}

/// See the module.
pub(super) struct Connection {
    wire: Wire,
    /// What was read in the handshake and has to be read first.
    read: Vec<u8>,
    given: usize,
    place: Place,
    meter: FrameMeter,
    /// The most bytes of control frames in a row.
    control_bytes: u64,
    /// Until when reading pauses, while it does.
    pause: Option<Pin<Box<Sleep>>>,
    /// Whether the client accepted no byte when it was offered some, last.
    is_stalled: bool,
}

impl Connection {
    /// `read` is what the client has sent so far.
    pub(super) fn new(wire: Wire, read: Vec<u8>, place: Place, control_bytes: u64) -> Self {
        let mut meter = FrameMeter::new();
        meter.read(read.get(PREFACE.len()..).unwrap_or_default());
        Self { wire, read, given: 0, place, meter, control_bytes, pause: None, is_stalled: false }
    }

    /// Ready when the client may send more.
    fn poll_allowed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.meter.is_exhausted() {
            if self.pause.is_none() {
                let now = Instant::now();
                let pause = self.meter.pause(now);
                if pause.is_zero() {
                    break;
                }
                self.pause = Some(Box::pin(sleep_until((now + pause).into())));
            }
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
        }
        Poll::Ready(())
    }

    /// Takes note of what came of an attempt to write.
    fn wrote(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.meter.wrote(*bytes);
        }
        self.note_stalled(written.is_pending());
        written
    }

    fn note_stalled(&mut self, is_stalled: bool) {
        if self.is_stalled != is_stalled {
            self.is_stalled = is_stalled;
            self.place.handle().note_stalled(is_stalled.then(Instant::now));
        }
    }

    /// Fails once the connection was closed by this process; until then the task is woken when that happens.
    fn poll_open(&self, cx: &Context<'_>) -> io::Result<()> {
        match self.place.handle().poll_closed(cx.waker()) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectionHandle;

    fn connect_info(&self) -> ConnectionHandle {
        self.place.handle().clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.poll_open(cx)?;
        let left = this.read.get(this.given..).unwrap_or_default();
        if left.is_empty() {
            ready!(this.poll_allowed(cx));
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.wire).poll_read(cx, buf))?;
            this.meter.read(&buf.filled()[before..]);
            if this.meter.control_bytes() > this.control_bytes {
                this.place.handle().close(CloseReason::ControlFlood);
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            return Poll::Ready(Ok(()));
        }
        let some = &left[..left.len().min(buf.remaining())];
        buf.put_slice(some);
        this.given += some.len();
        if this.given == this.read.len() {
            (this.read, this.given) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_open(cx)?;
        let written = Pin::new(&mut self.wire).poll_write(cx, buf);
        self.wrote(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_open(cx)?;
        let flushed = Pin::new(&mut self.wire).poll_flush(cx);
        if flushed.is_pending() {
            self.note_stalled(true);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_open(cx)?;
        let written = Pin::new(&mut self.wire).poll_write_vectored(cx, bufs);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
