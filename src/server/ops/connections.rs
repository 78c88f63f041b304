//! The connections of the ops port: one request each, within a bounded time, in a bounded number.
//!
//! Probes must get through whatever else connects. When all places are taken, the oldest connection is closed in favour of
//! the new one: a probe sends its request at once and is answered at once, so the oldest one is idle or slow. A few
//! descriptors are kept in reserve for the moment when the process has no other left.

use std::{collections::VecDeque, io, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::{Interval, MissedTickBehavior},
};

use super::super::seldom::Seldom;

/// Connections at once.
const CONNECTIONS: usize = 64;
/// From the acceptance of a connection to the last byte of its answer.
const WITHIN: Duration = Duration::from_secs(2);
/// Descriptors in reserve.
const SPARE_DESCRIPTORS: usize = 8;
/// How often the reserve is filled up, and how long to wait after a failure that the reserve does not help with.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections and runs `serve` on each, until it is dropped.
pub(super) async fn accept<F>(listener: TcpListener, serve: impl Fn(TcpStream) -> F) -> std::convert::Infallible
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut pauses = tokio::time::interval(PAUSE);
    pauses.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut open = Open::default();
    let mut reserve = Reserve::new();
    let mut failures = Seldom::default();
    loop {
        tokio::select! {
            Some(_ended) = open.serving.join_next() => reserve.fill(),
            () = tick_unless(reserve.is_full(), &mut pauses) => reserve.fill(),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    open.serve(serve(stream));
                    // Connections that wait in line must not displace one that has not been looked at yet.
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    if let Some(held_back) = failures.may_speak() {
                        tracing::warn!(%error, held_back, "the ops port could not accept a connection; retrying");
                    }
                    if !(is_want_of_descriptors(&error) && (reserve.release() || open.close_oldest())) {
                        pauses.reset();
                        pauses.tick().await;
                    }
                }
            },
        }
    }
}

async fn tick_unless(never: bool, pauses: &mut Interval) {
    if never {
        std::future::pending::<()>().await;
    }
    pauses.tick().await;
}

fn is_want_of_descriptors(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// The connections that are open.
#[derive(Default)]
struct Open {
    serving: JoinSet<()>,
    /// In the order of their acceptance. Ends of connections are noticed when a place is needed.
    oldest_first: VecDeque<AbortHandle>,
}

impl Open {
    fn serve(&mut self, serving: impl Future<Output = ()> + Send + 'static) {
        self.oldest_first.retain(|connection| !connection.is_finished());
        if self.oldest_first.len() >= CONNECTIONS {
            self.close_oldest();
        }
        // A client that hangs up, sends nothing or reads nothing ends without a trace.
        let in_time = async move { drop(tokio::time::timeout(WITHIN, serving).await) };
        self.oldest_first.push_back(self.serving.spawn(in_time));
    }

    /// False if there is none.
    fn close_oldest(&mut self) -> bool {
        self.oldest_first.retain(|connection| !connection.is_finished());
        let oldest = self.oldest_first.pop_front();
        if let Some(oldest) = &oldest {
            oldest.abort();
        }
        oldest.is_some()
    }
}

/// Descriptors that are kept open so that they can be closed when a connection needs one.
struct Reserve {
    /// What the spare descriptors are: the read end of a pipe, which costs no port and no file.
    source: Option<io::PipeReader>,
    spare: Vec<io::PipeReader>,
}

impl Reserve {
    fn new() -> Self {
        let source = io::pipe().ok().map(|(reader, _)| reader);
        let mut reserve = Self { source, spare: Vec::with_capacity(SPARE_DESCRIPTORS) };
        reserve.fill();
        reserve
    }

    fn is_full(&self) -> bool {
        self.spare.len() == SPARE_DESCRIPTORS
    }

    fn fill(&mut self) {
        while !self.is_full()
            && let Some(Ok(spare)) = self.source.as_ref().map(io::PipeReader::try_clone)
        {
            self.spare.push(spare);
        }
    }

    /// Closes one. False if there is none.
    fn release(&mut self) -> bool {
        self.spare.pop().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_released_one_by_one_and_filled_again() {
        let mut reserve = Reserve::new();
        assert!(reserve.is_full());
        for _ in 0..SPARE_DESCRIPTORS {
            assert!(reserve.release());
        }
        assert!(!reserve.release());
        reserve.fill();
        assert!(reserve.is_full());
    }

    #[tokio::test]
    async fn the_oldest_connection_gives_way_when_all_places_are_taken() {
        let mut open = Open::default();
        for _ in 0..CONNECTIONS {
            open.serve(std::future::pending());
        }
        let first = open.oldest_first[0].clone();
        open.serve(std::future::pending());
        assert!(open.serving.join_next().await.unwrap().unwrap_err().is_cancelled());
        assert!(first.is_finished());
        assert_eq!(open.serving.len(), CONNECTIONS);
    }
}
