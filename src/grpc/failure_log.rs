//! Which failures of unauthenticated calls the log tells one by one.
//!
//! A stranger can make calls that fail as fast as its connection allows. Each peer therefore gets one line a second; what
//! exceeds that is counted, and summarised every ten seconds in one line a peer. The table of peers is bounded: peers for
//! which it has no room are counted together.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{runtime::Handle, time::Instant};

use crate::admission::Share;

/// How far apart the lines of one peer are at least.
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// How long failures are counted before they are summarised.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(10);
/// Peers that are counted one by one.
const PEERS: usize = 1_024;
/// Peers that get a line of their own in one summary, those with most failures first.
const SUMMARISED_PEERS: usize = 32;

/// One for the process: peers are the same, whichever listener they came by.
static LOG: FailureLog = FailureLog::new();

/// Whether to log a failure of an unauthenticated call of `peer`. One that is not logged is counted for the summary.
pub(super) fn may_log(peer: Option<SocketAddr>) -> bool {
    let Some(peer) = peer else { return true };
    let (may_log, begins_summary) = LOG.count(peer.ip(), Instant::now());
    if begins_summary {
        summarise_later();
    }
    may_log
}

/// Logs what is counted and not summarised yet. To be called before the end.
pub fn summarise() {
    LOG.take_summary(Instant::now()).log();
}

fn summarise_later() {
    let Ok(runtime) = Handle::try_current() else { return };
    runtime.spawn(async {
        #[expect(clippy::disallowed_methods, reason = "the summary is due after a time, not after an event")]
        tokio::time::sleep(SUMMARY_INTERVAL).await;
        summarise();
    });
}

struct FailureLog(Mutex<Option<Table>>);

struct Table {
    peers: HashMap<Share, Peer>,
    /// Failures of peers that have no place in `peers`.
    others: Peer,
    /// When the first failure since the last summary was held back; none if there is none.
    counting_since: Option<Instant>,
}

struct Peer {
    address: Option<IpAddr>,
    last_line: Instant,
    suppressed: u64,
}

/// What was held back.
#[derive(Debug, PartialEq, Eq)]
struct Summary {
    seconds: u64,
    /// The peers with most failures, by descending number.
    peers: Vec<(IpAddr, u64)>,
    /// The failures of all other peers.
    others: u64,
}

impl FailureLog {
    const fn new() -> Self {
        Self(Mutex::new(None))
    }

    fn table(&self) -> MutexGuard<'_, Option<Table>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether to log it, and whether a summary has to be made after [`SUMMARY_INTERVAL`].
    fn count(&self, peer: IpAddr, now: Instant) -> (bool, bool) {
        let mut table = self.table();
        let table = table.get_or_insert_with(|| Table {
            peers: HashMap::new(),
            others: Peer { address: None, last_line: now - LINE_INTERVAL, suppressed: 0 },
            counting_since: None,
        });
        let share = Share::of_peer(peer);
        if table.peers.len() >= PEERS && !table.peers.contains_key(&share) {
            table.peers.retain(|_, peer| peer.suppressed > 0 || now.duration_since(peer.last_line) < LINE_INTERVAL);
        }
        let has_place = table.peers.len() < PEERS || table.peers.contains_key(&share);
        let counted = if has_place {
            let new = || Peer { address: Some(peer), last_line: now - LINE_INTERVAL, suppressed: 0 };
            table.peers.entry(share).or_insert_with(new)
        } else {
            &mut table.others
        };
        if now.duration_since(counted.last_line) >= LINE_INTERVAL {
            counted.last_line = now;
            return (true, false);
        }
        counted.suppressed += 1;
        let begins_summary = table.counting_since.is_none();
        table.counting_since.get_or_insert(now);
        (false, begins_summary)
    }

    fn take_summary(&self, now: Instant) -> Summary {
        let mut table = self.table();
        let Some(table) = table.as_mut() else { return Summary { seconds: 0, peers: Vec::new(), others: 0 } };
        let since = table.counting_since.take().unwrap_or(now);
        let mut peers: Vec<(IpAddr, u64)> = table
            .peers
            .values_mut()
            .filter(|peer| peer.suppressed > 0)
            .filter_map(|peer| Some((peer.address?, std::mem::take(&mut peer.suppressed))))
            .collect();
        peers.sort_unstable_by_key(|(address, failures)| (std::cmp::Reverse(*failures), *address));
        let beyond: u64 = peers.drain(SUMMARISED_PEERS.min(peers.len())..).map(|(_, failures)| failures).sum();
        Summary {
            seconds: now.duration_since(since).as_secs(),
            peers,
            others: std::mem::take(&mut table.others.suppressed) + beyond,
        }
    }
}

impl Summary {
    fn log(&self) {
        let Self { seconds, peers, others } = self;
        for (peer, failures) in peers {
            tracing::info!(%peer, failures, seconds, "further unauthenticated calls of this peer failed");
        }
        if *others > 0 {
            tracing::info!(failures = others, seconds, "further unauthenticated calls of other peers failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from(0xC000_0200 + number).into()
    }

    #[test]
    fn each_peer_has_one_line_a_second_and_the_rest_is_summarised() {
        let (log, begin) = (FailureLog::new(), Instant::now());
        let logged: Vec<_> = (0..2_500)
            .map(|millis| log.count(peer(7), begin + Duration::from_millis(millis)))
            .enumerate()
            .filter_map(|(millis, (may_log, _))| may_log.then_some(millis))
            .collect();
        assert_eq!(logged, [0, 1_000, 2_000]);
        assert_eq!(log.count(peer(8), begin + Duration::from_millis(2_500)), (true, false));
        let summary = log.take_summary(begin + Duration::from_secs(10));
        assert_eq!(summary, Summary { seconds: 9, peers: vec![(peer(7), 2_497)], others: 0 });
        assert_eq!(log.take_summary(begin + Duration::from_secs(20)).peers, []);
    }

    #[test]
    fn one_summary_is_due_at_a_time() {
        let (log, now) = (FailureLog::new(), Instant::now());
        let due: Vec<_> = [7, 7, 7, 8, 8].map(|number| log.count(peer(number), now).1).into();
        assert_eq!(due, [false, true, false, false, false]);
        log.take_summary(now);
        assert_eq!(log.count(peer(7), now), (false, true));
    }

    #[test]
    fn peers_beyond_the_table_share_a_line_a_second_and_a_line_of_the_summary() {
        let (log, now) = (FailureLog::new(), Instant::now());
        let peers = u32::try_from(PEERS).unwrap();
        let logged = (0..peers + 500).filter(|number| log.count(peer(*number), now).0).count();
        assert_eq!(logged, PEERS + 1);
        assert_eq!(log.take_summary(now).others, 499);
        // A second later the places are free again.
        assert!(log.count(peer(peers + 7), now + LINE_INTERVAL).0);
        assert!(log.table().as_ref().unwrap().peers.len() <= PEERS);
    }

    #[test]
    fn a_summary_names_the_peers_with_most_failures() {
        let (log, now) = (FailureLog::new(), Instant::now());
        for number in 0..40 {
            for _ in 0..=number + 1 {
                log.count(peer(number), now);
            }
        }
        let summary = log.take_summary(now);
        assert_eq!(summary.peers.len(), SUMMARISED_PEERS);
        assert_eq!(summary.peers[0], (peer(39), 40));
        assert_eq!(summary.others, (1..=8).sum::<u64>());
    }
}
