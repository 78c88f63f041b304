//! The door: accepts connections, shakes hands with many at once, and hands on those that have done.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{Interval, MissedTickBehavior},
};

use super::{
    connection::Connection,
    handshake::{self, Refusal},
    listener::{Limits, Listener},
    seldom::Seldom,
};
use crate::tls::Certificates;

/// How long to wait after the operating system had no connection to give, such as for want of descriptors. Trying again
/// at once would only burn time.
const PAUSE: Duration = Duration::from_millis(100);

/// See the module.
pub(super) struct Door {
    tcp: TcpListener,
    certificates: Option<Arc<Certificates>>,
    limits: Limits,
    room: Arc<Semaphore>,
    shaking: JoinSet<(SocketAddr, Result<Connection, Refusal>)>,
    failing: bool,
    pauses: Interval,
    failures: Seldom,
    crowds: Seldom,
    refusals: Seldom,
}

impl Door {
    pub(super) fn new(listener: Listener) -> Self {
        let Listener { tcp, certificates, limits } = listener;
        let mut pauses = tokio::time::interval(PAUSE);
        pauses.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            tcp,
            certificates,
            limits,
            room: Arc::new(Semaphore::new(limits.handshakes)),
            shaking: JoinSet::new(),
            failing: false,
            pauses,
            failures: Seldom::default(),
            crowds: Seldom::default(),
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
                accepted = accept(&self.tcp, &mut self.pauses, self.failing) => match accepted {
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
        let Ok(place) = Arc::clone(&self.room).try_acquire_owned() else {
            if let Some(held_back) = self.crowds.may_speak() {
                let most = self.limits.handshakes;
                tracing::warn!(most, held_back, %peer, "too many connections are in their handshakes; closed one");
            }
            return;
        };
        let (certificates, limit) = (self.certificates.clone(), self.limits.handshake);
        self.shaking.spawn(async move {
            let shaken = handshake::shake(stream, peer, certificates, limit).await;
            drop(place);
            (peer, shaken)
        });
    }

    fn log_failure(&mut self, error: &io::Error) {
        if let Some(held_back) = self.failures.may_speak() {
            tracing::error!(%error, held_back, "no connection could be accepted; trying again");
        }
    }

    fn log_refusal(&mut self, peer: SocketAddr, refusal: &Refusal) {
        // Load balancers look in like this all the time.
        if matches!(refusal, Refusal::Gone) {
            tracing::debug!(%peer, "a connection was closed before it began");
        } else if let Some(held_back) = self.refusals.may_speak() {
            tracing::info!(%peer, why = %refusal, held_back, "a connection ended in its handshake");
        }
    }
}

/// Accepts the next connection; after a failure not before a pause is over.
async fn accept(tcp: &TcpListener, pauses: &mut Interval, failing: bool) -> io::Result<(TcpStream, SocketAddr)> {
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
