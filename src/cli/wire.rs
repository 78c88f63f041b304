//! The connection of the command line, and an ear for what is spoken at its other end.
//!
//! Somebody who asks in plaintext where TLS is spoken, or the other way round, gets an answer that the layers above
//! can only call broken. Its first byte tells what it is.

use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tonic::transport::Uri;
use tower::{Service, service_fn};

use super::trust::is_tls;

/// Something else is spoken at the other end than was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Surprise {
    Tls,
    Http1,
    NoTls,
}

impl fmt::Display for Surprise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls => "TLS is spoken there; write https:// instead of http://",
            Self::Http1 => "HTTP/1 is spoken there, and no gRPC",
            Self::NoTls => {
                "no TLS is spoken there; write http:// instead of https:// if that is right, and know that your key then \
                 travels in plaintext"
            }
        })
    }
}

impl std::error::Error for Surprise {}

/// What was heard that was not expected. The error of a connection does not always find its way to those who wait for
/// an answer on it.
pub(super) type Heard = Arc<OnceLock<Surprise>>;

/// What the first byte of an answer reveals.
fn surprise(expects_tls: bool, first: u8) -> Option<Surprise> {
    // The types of a TLS record, RFC 8446, section 5.1. A first frame of HTTP/2 begins with its length, far below 2^16.
    match (expects_tls, first) {
        (true, 20..=23) | (false, 0) => None,
        (true, _) => Some(Surprise::NoTls),
        (false, 20..=23) => Some(Surprise::Tls),
        (false, b'H') => Some(Surprise::Http1),
        (false, _) => None,
    }
}

/// Connects to the host and port of an address, and lets know what is heard there.
pub(super) fn connector(
    heard: Heard,
) -> impl Service<Uri, Response = TokioIo<Listening>, Error = io::Error, Future: Send> + Send + 'static {
    service_fn(move |uri: Uri| connect(uri, Arc::clone(&heard)))
}

async fn connect(uri: Uri, heard: Heard) -> io::Result<TokioIo<Listening>> {
    let expects_tls = is_tls(&uri);
    let host = uri.host().unwrap_or_default();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = uri.port_u16().unwrap_or(if expects_tls { 443 } else { 80 });
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(Listening { stream, expects_tls, is_first: true, heard }))
}

/// A connection that fails with words if the first that comes back is a surprise.
pub(super) struct Listening {
    stream: TcpStream,
    expects_tls: bool,
    is_first: bool,
    heard: Heard,
}

impl Listening {
    /// Judges the first byte that has come.
    fn hear(&mut self, first: u8) -> io::Result<()> {
        if !std::mem::replace(&mut self.is_first, false) {
            return Ok(());
        }
        match surprise(self.expects_tls, first) {
            None => Ok(()),
            Some(surprise) => {
                let surprise = *self.heard.get_or_init(|| surprise);
                Err(io::Error::new(io::ErrorKind::InvalidData, surprise))
            }
        }
    }

    /// The reason why nothing can be written any more: perhaps the other end has said it before it hung up.
    fn reason(&mut self, error: io::Error) -> io::Error {
        let mut first = [0];
        match self.stream.try_read(&mut first) {
            Ok(1) => self.hear(first[0]).err().unwrap_or(error),
            _ => error,
        }
    }
}

impl AsyncRead for Listening {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        Poll::Ready(buf.filled().get(before).map_or(Ok(()), |first| self.hear(*first)))
    }
}

impl AsyncWrite for Listening {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        Poll::Ready(written.map_err(|error| self.reason(error)))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_tells_what_is_spoken() {
        assert_eq!(surprise(true, 22), None);
        assert_eq!(surprise(true, 0), Some(Surprise::NoTls));
        assert_eq!(surprise(true, b'H'), Some(Surprise::NoTls));
        assert_eq!(surprise(false, 0), None);
        assert_eq!(surprise(false, 21), Some(Surprise::Tls));
        assert_eq!(surprise(false, b'H'), Some(Surprise::Http1));
    }
}
