//! Unary calls at a fixed rate, whether or not those before were answered.
//!
//! A closed loop waits when the server is slow, and then asks less: what would have waited behind a slow call never
//! shows in its figures. Here each call has a moment at which it ought to begin, and its latency counts from then.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use hdrhistogram::Histogram;
use prost::bytes::Bytes;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

use super::{
    answers::Tally,
    connection::{Connection, Head, VALIDATE, call},
    servers::Server,
};

/// How calls are to come.
#[derive(Clone, Copy)]
pub struct Pace {
    pub connections: usize,
    pub per_second: f64,
    /// Calls of the first while are not recorded.
    pub warm_up: Duration,
    pub round: Duration,
}

/// What came of them.
pub struct Paced {
    /// Nanoseconds from when each ought to have begun to its status.
    pub latencies: Histogram<u64>,
    pub tally: Tally,
    /// Calls a second that were answered: less than the pace if the server could not hold it.
    pub per_second: f64,
}

impl Paced {
    /// The latency that this share of the calls did not exceed, in microseconds.
    pub fn micros(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1e3
    }
}

pub async fn run(server: Server, authorization: &str, pace: Pace, mut next: impl FnMut() -> Bytes) -> Paced {
    let connections = Connection::open_many(server.address, pace.connections).await;
    let head = Head::new(server.address, VALIDATE, authorization);
    let mut timer = Timer::new();
    let mut latencies = Histogram::new(3).unwrap();
    let (mut tally, mut launched, mut in_flight) = (Tally::default(), 0, FuturesUnordered::new());
    let began = Instant::now();
    let due = |call: usize| began + Duration::from_secs_f64(call as f64 / pace.per_second);
    let calls = ((pace.warm_up + pace.round).as_secs_f64() * pace.per_second) as usize;
    while launched < calls || !in_flight.is_empty() {
        while launched < calls && due(launched) <= Instant::now() {
            let (connection, message, due) = (&connections[launched % connections.len()], next(), due(launched));
            let head = &head;
            in_flight.push(async move {
                let answer = call(&mut connection.sender(), head, message).await;
                (answer, due, Instant::now())
            });
            launched += 1;
        }
        tokio::select! {
            biased;
            Some((answer, due, ended)) = in_flight.next(), if !in_flight.is_empty() => {
                tally.count(answer);
                if due >= began + pace.warm_up {
                    latencies.record(ended.saturating_duration_since(due).as_nanos() as u64).unwrap();
                }
            }
            () = timer.until(due(launched)), if launched < calls => {}
        }
    }
    let per_second = tally.total() as f64 / began.elapsed().as_secs_f64();
    Paced { latencies, tally, per_second }
}

/// Wakes within microseconds; the timers of tokio know milliseconds.
struct Timer {
    fd: AsyncFd<OwnedFd>,
    set_to: Option<Instant>,
}

impl Timer {
    fn new() -> Self {
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC).unwrap();
        #[expect(deprecated, reason = "what took its place is unsafe; an OwnedFd is what it is safe with")]
        let fd = AsyncFd::new(fd).unwrap();
        Self { fd, set_to: None }
    }

    async fn until(&mut self, due: Instant) {
        if self.set_to != Some(due) {
            let left = due.saturating_duration_since(Instant::now());
            // Zero would be no time at all, but never.
            let left = left.max(Duration::from_nanos(1));
            let it_value = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
            timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &once).unwrap();
            self.set_to = Some(due);
        }
        self.fd.readable().await.unwrap().clear_ready();
    }
}
