//! The wire between one replica and the database, and what may befall it: answers late, silence, connections reset or cut
//! in the middle of a message, one end gone without the other knowing, another node at the far end.
//!
//! It listens on one port for as long as the checker runs, and is also what leads a replica to the promoted standby.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    clock::{Clock, Moment},
    wire,
};
use crate::rig::{Outcome, doing};

#[cfg(test)]
mod tests;

/// What was sent before the silence began may still be on its way into the socket for so long.
const ON_ITS_WAY: Duration = Duration::from_millis(100);
/// A connection whose other end is gone without its knowing is kept for so long at most.
const HALF_OPEN_FOR: Duration = Duration::from_secs(4);

/// The wire of one replica.
pub struct Proxy {
    port: u16,
    weather: Arc<Weather>,
    clock: Clock,
    silent_since: Mutex<Option<Moment>>,
}

struct Weather {
    now: watch::Sender<Now>,
    /// Statements that read credentials.
    reads: AtomicU64,
    /// Connections so far.
    connections: AtomicU64,
}

/// What the weather is like. Numbers of events only grow; a connection heeds those that come after its beginning.
#[derive(Clone, Copy, Debug)]
struct Now {
    silent: bool,
    late: Duration,
    primary: SocketAddr,
    /// Where new connections are led instead, and whether only every second one.
    astray: Option<(SocketAddr, bool)>,
    resets: u64,
    cuts: u64,
    half_openings: u64,
}

enum End {
    Closed,
    Reset,
    HalfOpen,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Toward {
    Database,
    Replica,
}

impl Proxy {
    /// A wire to the database at `port`.
    ///
    /// # Errors
    /// If there is no port to listen on.
    pub async fn start(port: u16, clock: Clock) -> Outcome<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(doing("listening"))?;
        let own = listener.local_addr().map_err(doing("listening"))?.port();
        let now = Now {
            silent: false,
            late: Duration::ZERO,
            primary: loopback(port),
            astray: None,
            resets: 0,
            cuts: 0,
            half_openings: 0,
        };
        let weather = Weather { now: watch::channel(now).0, reads: AtomicU64::new(0), connections: AtomicU64::new(0) };
        let weather = Arc::new(weather);
        tokio::spawn(listen(listener, Arc::clone(&weather)));
        Ok(Self { port: own, weather, clock, silent_since: Mutex::new(None) })
    }

    /// The port that the replica connects to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Answers come so much later from now on; nothing: at once, those that are waiting as well.
    pub fn make_late(&self, by: Duration) {
        self.weather.now.send_modify(|now| now.late = by);
    }

    /// Connections are accepted and never answered; those that are open say nothing any more.
    pub fn silence(&self) {
        self.weather.now.send_modify(|now| now.silent = true);
        let since = self.clock.now().after(ON_ITS_WAY);
        *self.silent_since.lock().expect("nobody panics here") = Some(since);
    }

    /// Ends the silence; what was held back arrives.
    pub fn speak(&self) {
        *self.silent_since.lock().expect("nobody panics here") = None;
        self.weather.now.send_modify(|now| now.silent = false);
    }

    /// Since when the replica has heard nothing from any database, if that is so.
    pub fn silent_since(&self) -> Option<Moment> {
        *self.silent_since.lock().expect("nobody panics here")
    }

    /// Resets all connections.
    pub fn reset(&self) {
        self.weather.now.send_modify(|now| now.resets += 1);
    }

    /// Cuts each connection in the middle of its next answer.
    pub fn cut(&self) {
        self.weather.now.send_modify(|now| now.cuts += 1);
    }

    /// Takes the far end of each connection away without the replica's knowing.
    pub fn half_open(&self) {
        self.weather.now.send_modify(|now| now.half_openings += 1);
    }

    /// Leads new connections to this port, or every second one, and resets those that are open.
    pub fn lead_astray(&self, port: u16, only_every_second: bool) {
        self.weather.now.send_modify(|now| {
            now.astray = Some((loopback(port), only_every_second));
            now.resets += 1;
        });
    }

    /// Leads all connections to the primary again.
    pub fn lead_back(&self) {
        self.weather.now.send_modify(|now| {
            now.astray = None;
            now.resets += 1;
        });
    }

    /// There is another primary.
    pub fn move_to(&self, port: u16) {
        self.weather.now.send_modify(|now| {
            now.primary = loopback(port);
            now.resets += 1;
        });
    }

    /// How many statements that read credentials went over it.
    pub fn reads(&self) -> u64 {
        self.weather.reads.load(Ordering::Relaxed)
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

async fn listen(listener: TcpListener, weather: Arc<Weather>) {
    while let Ok((replica, _)) = listener.accept().await {
        tokio::spawn(carry(replica, Arc::clone(&weather)));
    }
}

/// One connection, from its beginning to its end.
async fn carry(mut replica: TcpStream, weather: Arc<Weather>) {
    let mut watched = weather.now.subscribe();
    if watched.wait_for(|now| !now.silent).await.is_err() {
        return;
    }
    let begun = *watched.borrow_and_update();
    let number = weather.connections.fetch_add(1, Ordering::Relaxed);
    let target = match begun.astray {
        Some((address, only_every_second)) if !only_every_second || number % 2 == 1 => address,
        _ => begun.primary,
    };
    let Ok(mut database) = TcpStream::connect(target).await else {
        reset(&replica);
        return;
    };
    let _ = (replica.set_nodelay(true), database.set_nodelay(true));
    let end = {
        let (from_replica, to_replica) = replica.split();
        let (from_database, to_database) = database.split();
        tokio::select! {
            end = pump(from_replica, to_database, Toward::Database, &weather, begun) => end,
            end = pump(from_database, to_replica, Toward::Replica, &weather, begun) => end,
            end = event(&mut watched, begun) => end,
        }
    };
    match end {
        End::Closed => {}
        End::Reset => {
            reset(&replica);
            reset(&database);
        }
        End::HalfOpen => {
            drop(database);
            let mut swallowed = [0; 4_096];
            let swallow = async { while replica.read(&mut swallowed).await.is_ok_and(|read| read > 0) {} };
            let _ = tokio::time::timeout(HALF_OPEN_FOR, swallow).await;
            reset(&replica);
        }
    }
}

/// The next thing that ends a connection from outside.
async fn event(watched: &mut watch::Receiver<Now>, begun: Now) -> End {
    let ends = |now: &Now| now.resets > begun.resets || now.half_openings > begun.half_openings;
    match watched.wait_for(ends).await {
        Ok(now) if now.resets == begun.resets => End::HalfOpen,
        Ok(_) | Err(_) => End::Reset,
    }
}

fn reset(stream: &TcpStream) {
    // Without lingering, closing sends a reset.
    let _ = stream.set_zero_linger();
}

/// Carries bytes one way, as late as the weather has it.
async fn pump(mut from: ReadHalf<'_>, to: WriteHalf<'_>, toward: Toward, weather: &Weather, begun: Now) -> End {
    let (send, receive) = mpsc::unbounded_channel();
    let reading = async {
        let (mut buffer, mut reader) = (vec![0; 16 * 1024], wire::Reader::default());
        loop {
            match from.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(read) => {
                    if toward == Toward::Database {
                        weather.reads.fetch_add(reader.read(&buffer[..read]), Ordering::Relaxed);
                    }
                    if send.send((Instant::now(), buffer[..read].to_vec())).is_err() {
                        break;
                    }
                }
            }
        }
        drop(send);
        std::future::pending::<End>().await
    };
    tokio::select! {
        end = reading => end,
        end = write(to, receive, toward, weather.now.subscribe(), begun) => end,
    }
}

async fn write(
    mut to: WriteHalf<'_>,
    mut receive: mpsc::UnboundedReceiver<(Instant, Vec<u8>)>,
    toward: Toward,
    mut watched: watch::Receiver<Now>,
    begun: Now,
) -> End {
    while let Some((arrived, bytes)) = receive.recv().await {
        loop {
            let now = *watched.borrow_and_update();
            let late = if toward == Toward::Replica { now.late } else { Duration::ZERO };
            let due = arrived + late;
            if !now.silent && due <= Instant::now() {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep_until(due), if !now.silent => {}
                changed = watched.changed() => if changed.is_err() { return End::Reset },
            }
        }
        if toward == Toward::Replica && bytes.len() > 1 && watched.borrow().cuts > begun.cuts {
            let _ = to.write_all(&bytes[..bytes.len() / 2]).await;
            return End::Reset;
        }
        if to.write_all(&bytes).await.is_err() {
            return End::Reset;
        }
    }
    End::Closed
}
