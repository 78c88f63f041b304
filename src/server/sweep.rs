//! The worker that closes connections whose clients do not read.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::Limits;
use crate::admission::{AnswerBudgets, Connections};

/// How often all connections are checked, unless limits are so short that it has to be more often.
const INTERVAL: Duration = Duration::from_millis(250);

/// Checks all connections until `stop`.
pub(super) async fn close_unresponsive(
    connections: Connections,
    answers: Arc<AnswerBudgets>,
    limits: Limits,
    stop: CancellationToken,
) -> &'static str {
    let shortest = limits.stall.min(limits.answers.stall).min(limits.answers.unread_after * 2);
    let mut ticks = tokio::time::interval(INTERVAL.min(shortest / 4).max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let now = Instant::now();
        connections.close_stalled(now, limits.stall);
        answers.sweep(&connections, now);
    }
    "connections"
}
