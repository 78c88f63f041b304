//! Where connections come from: a socket, a certificate if there is one, and the limits of connections.

use std::{io, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use tokio::net::TcpListener;

use super::{connection::Connection, door::Door};
use crate::{
    admission::{AnswerLimits, Connections},
    tls::Certificates,
};

/// A socket that is listened on. A [`TcpListener`] alone is one for plaintext.
pub struct Listener {
    pub(super) tcp: TcpListener,
    pub(super) certificates: Option<Arc<Certificates>>,
    pub(super) limits: Limits,
}

/// Limits of connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long the handshake of TLS may take, and then that of HTTP/2.
    pub handshake: Duration,
    /// How many handshakes of TLS are computed at once, in turn by peer.
    pub tls_computations: usize,
    /// How many connections there may be at once, those in their handshakes included. When all places are taken, a new
    /// connection displaces another.
    pub connections: usize,
    /// How long a client may accept no byte while there is something to send.
    pub stall: Duration,
    /// How many bytes of frames a client may send in a row without a request, a body or a stream item in them.
    pub control_bytes: u64,
    /// Answers that were made and not sent.
    pub answers: AnswerLimits,
}

impl Limits {
    /// The default number of connections, unless the limit of descriptors asks for fewer.
    pub const CONNECTIONS: usize = 4_096;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            // Half of the cores, so that handshakes leave the other half to calls.
            tls_computations: std::thread::available_parallelism().map_or(1, |cores| cores.get() / 2),
            connections: Self::CONNECTIONS,
            stall: Duration::from_secs(10),
            control_bytes: 1024 * 1024,
            answers: AnswerLimits::default(),
        }
    }
}

impl From<TcpListener> for Listener {
    fn from(tcp: TcpListener) -> Self {
        Self { tcp, certificates: None, limits: Limits::default() }
    }
}

impl Listener {
    /// Speaks TLS alone, with what `certificates` serve at each handshake; plaintext if there are none.
    #[must_use]
    pub fn with_tls(self, certificates: Option<Arc<Certificates>>) -> Self {
        Self { certificates, ..self }
    }

    /// Has other bounds.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The connections that have their handshakes behind them. The socket is closed when this is dropped.
    pub(super) fn incoming(self, connections: Connections) -> impl Stream<Item = io::Result<Connection>> + Send {
        stream::unfold(Door::new(self, connections), |mut door| async move { Some((Ok(door.next().await), door)) })
    }
}
