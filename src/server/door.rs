//! Accepts connections, runs many handshakes at once, and returns connections whose handshakes are complete.
//!
//! A connection holds its place from the moment it is accepted. While all places are taken, a new connection displaces
//! another, so that slow handshakes cannot keep other clients out.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Interval, MissedTickBehavior},
};

use super::{
    connection::Connection,
    handshake::{self, Refusal},
    listener::{Limits, Listener},
    seldom::Seldom,
};
use crate::{
    admission::{ConnectionHandle, Connections, Turns},
    tls::Certificates,
};

/// How long to wait after the operating system had no connection to give, such as for want of descriptors. Trying again
/// at once would only burn time.
const PAUSE: Duration = Duration::from_millis(100);

/// See the module.
pub(super) struct Door {
    tcp: TcpListener,
    certificates: Option<Arc<Certificates>>,
    limits: Limits,
    connections: Connections,
    turns: Turns,
    shaking: JoinSet<(SocketAddr, Result<Connection, Refusal>)>,
    failing: bool,
    pauses: Interval,
    failures: Seldom,
    displacements: Seldom,
    refusals: Seldom,
}

impl Door {
    pub(super) fn new(listener: Listener, connections: Connections) -> Self {
        let Listener { tcp, certificates, limits } = listener;
        let mut pauses = tokio::time::interval(PAUSE);
        pauses.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            tcp,
            certificates,
            limits,
            connections,
            turns: Turns::new(limits.tls_computations),
            shaking: JoinSet::new(),
            failing: false,
            pauses,
            failures: Seldom::default(),
            displacements: Seldom::default(),
            refusals: Seldom::default(),
        }
    }

    /// The next connection that has its handshakes behind it.
    pub(super) async fn next(&mut self) -> Connection {
        loop {
            tokio::select! {
                Some(shaken) = self.shaking.join_next() => match shaken {
                    Ok((_, Ok(connection))) => return connection,
                    Ok((peer, Err(refusal))) => self.log_refusal(peer, &refusal),
                    // The hook of `main` has logged the panic; the connection is gone.
                    Err(_) => {}
                },
                accepted = accept(&self.tcp, &self.connections, &mut self.pauses, self.failing) => match accepted {
                    Ok((stream, peer)) => {
                        self.failing = false;
                        self.shake(stream, peer);
                    }
                    Err(error) => {
                        self.failing = !is_of_one_connection(&error);
                        self.log_failure(&error);
                    }
                },
            }
        }
    }

    fn shake(&mut self, stream: TcpStream, peer: SocketAddr) {
        let (place, displaced) = self.connections.admit(peer);
        if let Some(displaced) = displaced {
            self.log_displaced(&displaced);
        }
        let certificates = self.certificates.clone().map(|certificates| (certificates, self.turns.clone()));
        let limits = self.limits;
        self.shaking.spawn(async move {
            let handle = place.handle().clone();
            let shaken = tokio::select! {
                () = handle.closed() => Err(Refusal::Displaced),
                shaken = handshake::shake(stream, place, certificates, limits) => shaken,
            };
            (peer, shaken)
        });
    }

    fn log_displaced(&mut self, displaced: &ConnectionHandle) {
        if let Some(held_back) = self.displacements.may_speak() {
            tracing::warn!(
                limit = self.limits.connections,
                peer = %displaced.peer(),
                authenticated = displaced.last_caller().is_some(),
                held_back,
                "the connection limit is reached; closed a connection to make room for a new one"
            );
        }
    }

    fn log_failure(&mut self, error: &io::Error) {
        if let Some(held_back) = self.failures.may_speak() {
            tracing::error!(%error, held_back, "no connection could be accepted; trying again");
        }
    }

    fn log_refusal(&mut self, peer: SocketAddr, refusal: &Refusal) {
        // Load balancers look in like this all the time.
        if matches!(refusal, Refusal::Gone | Refusal::Displaced) {
            tracing::debug!(%peer, why = %refusal, "a connection was closed before it began");
        } else if let Some(held_back) = self.refusals.may_speak() {
            tracing::info!(%peer, why = %refusal, held_back, "a connection ended in its handshake");
        }
    }
}

/// Accepts the next connection: after a failure not before a pause is over, and not while too many connections that were
/// displaced still hold their descriptors.
async fn accept(
    tcp: &TcpListener,
    connections: &Connections,
    pauses: &mut Interval,
    failing: bool,
) -> io::Result<(TcpStream, SocketAddr)> {
    connections.until_room().await;
    if failing {
        pauses.tick().await;
    }
    tcp.accept().await
}

/// Whether only one connection is gone, and the next may be as good as ever.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
