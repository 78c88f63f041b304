//! The worker that closes connections whose clients do not read.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::Limits;
use crate::admission::Connections;

/// How often all connections are checked, unless limits are so short that it has to be more often.
const INTERVAL: Duration = Duration::from_millis(250);

/// Checks all connections until `stop`.
pub(super) async fn close_unresponsive(
    connections: Connections,
    limits: Limits,
    stop: CancellationToken,
) -> &'static str {
    let mut ticks = tokio::time::interval(INTERVAL.min(limits.stall / 4).max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        connections.close_stalled(Instant::now(), limits.stall);
    }
    "connections"
}
