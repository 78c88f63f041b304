//! The handshakes of one connection, each in bounded time: that of TLS, and that of HTTP/2 as far as the client's first
//! frame, which RFC 9113, section 3.4, has it send at once.
//!
//! The transport behind it has no such bound: it would wait for ever for somebody who connects and says nothing.

use std::{fmt, io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    LazyConfigAcceptor,
    rustls::{self, AlertDescription, InvalidMessage, server::Acceptor},
    server::TlsStream,
};

use super::{
    connection::{Connection, Wire},
    listener::Limits,
};
use crate::{
    admission::{Place, Share, Turns},
    tls::{self, Certificates},
};

/// What a client of HTTP/2 says first, before its first frame.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a peer that is refused gets to read why.
const PARTING: Duration = Duration::from_secs(1);
/// The bytes before a frame's payload; the first three are the length of it.
const FRAME_HEADER: usize = 9;
/// The longest payload that a client may send before it was allowed more.
const MAX_FRAME: usize = 16 * 1024;

/// Why a connection was ended in its handshake.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The peer hung up without a word.
    Gone,
    /// Its place was needed for another connection.
    Displaced,
    /// The handshake of TLS was not done in time.
    TlsLate,
    /// The handshake of HTTP/2 was not done in time.
    Http2Late,
    /// The handshake of TLS failed.
    Tls(io::Error),
    /// The peer hung up when it had seen the certificate.
    TlsGone,
    /// TLS was done, but not for HTTP/2.
    NoAlpn,
    /// The connection broke.
    Broken(io::Error),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the client hung up"),
            Self::Displaced => f.write_str("its place was needed for another connection"),
            Self::TlsLate => f.write_str("the client did not end the handshake of TLS in time"),
            Self::Http2Late => f.write_str("the client did not begin to speak HTTP/2 in time"),
            Self::TlsGone => f.write_str(
                "the client hung up in the handshake of TLS; perhaps it does not trust the certificate, or not this name",
            ),
            Self::NoAlpn => f.write_str("the client did not ask for HTTP/2 in the handshake of TLS (ALPN h2)"),
            Self::Broken(error) => write!(f, "the connection broke: {error}"),
            Self::Tls(error) => match rustls_error(error) {
                Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
                    f.write_str("the client does not speak TLS; it has to")
                }
                Some(rustls::Error::AlertReceived(
                    AlertDescription::UnknownCA
                    | AlertDescription::BadCertificate
                    | AlertDescription::CertificateUnknown,
                )) => write!(f, "the client does not trust the certificate: {error}"),
                _ => write!(f, "TLS: {error}"),
            },
        }
    }
}

/// The error of TLS inside of `error`.
fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Does the handshakes, each within its limit of time.
pub(super) async fn shake(
    stream: TcpStream,
    place: Place,
    certificates: Option<(Arc<Certificates>, Turns)>,
    limits: Limits,
) -> Result<Connection, Refusal> {
    stream.set_nodelay(true).map_err(Refusal::Broken)?;
    let mut wire = match certificates {
        None => Wire::Plain(stream),
        Some((certificates, turns)) => {
            let encrypting = encrypt(stream, &certificates, &turns, place.handle().peer_share());
            let stream = timeout(limits.handshake, encrypting).await.map_err(|_| Refusal::TlsLate)??;
            // rustls refuses a client that asks for something else, but not one that asks for nothing.
            if stream.get_ref().1.alpn_protocol() != Some(tls::ALPN) {
                return Err(Refusal::NoAlpn);
            }
            Wire::Tls(Box::new(stream))
        }
    };
    match timeout(limits.handshake, begin(&mut wire)).await {
        Err(_) => Err(Refusal::Http2Late),
        Ok(Err(error)) if is_farewell(&error) => Err(Refusal::Gone),
        Ok(Err(error)) => Err(Refusal::Broken(error)),
        Ok(Ok(read)) => Ok(Connection::new(wire, read, place, limits.control_bytes)),
    }
}

async fn encrypt(
    stream: TcpStream,
    certificates: &Certificates,
    turns: &Turns,
    share: &Share,
) -> Result<TlsStream<TcpStream>, Refusal> {
    let or =
        |farewell: Refusal| move |error: io::Error| if is_farewell(&error) { farewell } else { Refusal::Tls(error) };
    let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), stream);
    let hello = match (&mut acceptor).await {
        Ok(hello) => hello,
        Err(error) => {
            if let Some(stream) = acceptor.take_io().filter(|_| !is_farewell(&error)) {
                part(stream).await;
            }
            return Err(or(Refusal::Gone)(error));
        }
    };
    let turn = turns.take(share).await;
    // The key exchange and the signature are computed here, before the first poll.
    let encrypted = hello.into_stream(certificates.config());
    drop(turn);
    encrypted.await.map_err(or(Refusal::TlsGone))
}

/// Lets the peer read why it is refused: a socket that is closed while words of the peer are unread takes back what it
/// has sent.
async fn part(mut stream: TcpStream) {
    let parting = async {
        stream.shutdown().await?;
        while stream.read(&mut [0; 1024]).await? > 0 {}
        Ok::<(), io::Error>(())
    };
    // Whoever does not hang up is hung up on.
    drop(timeout(PARTING, parting).await);
}

fn is_farewell(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// Reads until the first frame is whole, or until it is clear that this will never be HTTP/2, which the transport then
/// tells the client in its own words.
async fn begin(wire: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut read = Vec::with_capacity(256);
    while !is_begun(&read) {
        if wire.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(read)
}

fn is_begun(read: &[u8]) -> bool {
    let Some(frame) = read.strip_prefix(PREFACE) else {
        return !PREFACE.starts_with(read);
    };
    let [high, middle, low, ..] = *frame else { return false };
    let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
    length > MAX_FRAME || frame.len() >= FRAME_HEADER + length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_2_has_begun_with_the_last_byte_of_the_first_frame() {
        let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1];
        let whole = [PREFACE, &settings].concat();
        for length in 0..whole.len() {
            assert!(!is_begun(&whole[..length]), "{length}");
        }
        assert!(is_begun(&whole));
        assert!(is_begun(&[&whole[..], b"more"].concat()));
    }

    #[test]
    fn what_will_never_be_http_2_is_not_waited_for() {
        let endless = [PREFACE, &[0xff, 0xff, 0xff]].concat();
        for first in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01", b"PRI * HTTP/1", &endless] {
            assert!(is_begun(first), "{first:?}");
        }
    }

    #[test]
    fn a_refusal_says_what_the_client_would_have_to_change() {
        let tls = |error| Refusal::Tls(io::Error::new(io::ErrorKind::InvalidData, error)).to_string();
        let plain = tls(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType));
        assert_eq!(plain, "the client does not speak TLS; it has to");
        let unknown = tls(rustls::Error::AlertReceived(AlertDescription::UnknownCA));
        assert_eq!(unknown, "the client does not trust the certificate: received fatal alert: UnknownCA");
    }
}
