//! When a `ValidateStream` ends that its client has not ended: by its age, with the server, or with its caller's rights.

use std::{future::Future, sync::Arc, time::Duration};

use futures_util::future::select;
use rand::{TryRng, rngs::SysRng};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{auth::CallerKey, request_body, status};
use crate::{
    admission::Grant,
    app::App,
    domain::{Error, scope},
    seeded::{self, Bug},
};

/// How often the caller of a stream is evaluated while nothing is asked. A stream ends within 5 s of its caller's end.
const EVALUATED_EVERY: Duration = Duration::from_secs(2);

/// When streams come to their end.
#[derive(Clone, Debug)]
pub struct Ends {
    /// The server shuts down.
    pub stop: CancellationToken,
    /// How old a stream gets, give or take a tenth, so that not all of them end at once.
    pub age: Duration,
}

impl Ends {
    /// Comes when a stream that begins now has to end.
    #[expect(clippy::disallowed_methods, reason = "the age of a stream is nothing that a key is judged by")]
    pub(super) fn of_a_stream(&self) -> impl Future<Output = ()> + Send + use<> {
        // Without random numbers all streams live equally long, which is no fault.
        let share = SysRng.try_next_u32().map_or(0.5, |dice| f64::from(dice) / f64::from(u32::MAX));
        let age = tokio::time::sleep(self.age.mul_f64(0.9 + 0.2 * share));
        let stop = self.stop.clone().cancelled_owned();
        async move {
            select(Box::pin(age), Box::pin(stop)).await;
        }
    }
}

/// Why a stream ends that its client has not ended.
pub(super) enum End {
    /// By its age, or because the server shuts down. What was read is answered.
    Drained,
    /// The caller is no longer valid, or others need the stream's place. Nothing more is read, evaluated or answered.
    Refused(Status),
}

/// Watches over a stream beside it, so that it ends although its client neither sends nor reads.
pub(super) async fn watch_over(
    app: Arc<App>,
    key: Arc<CallerKey>,
    place: Grant,
    drained: impl Future<Output = ()>,
) -> End {
    tokio::select! {
        biased;
        () = drained => End::Drained,
        () = place.revoked() => End::Refused(request_body::overloaded()),
        status = caller_lost(&app, &key) => End::Refused(status),
    }
}

/// Waits until the caller may not validate any more, and says why. Nothing is said against a caller that cannot be evaluated
/// now: each of its items says so.
async fn caller_lost(app: &Arc<App>, key: &CallerKey) -> Status {
    // The first look after a random part of the time, or all streams that were opened together would look together.
    let part = SysRng.try_next_u32().map_or(0.5, |dice| f64::from(dice) / f64::from(u32::MAX));
    let first = Instant::now() + EVALUATED_EVERY.mul_f64(part);
    let mut looks = tokio::time::interval_at(first, EVALUATED_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if key.may_still_validate(app) || seeded::bug(Bug::CallerJudgedAtStart) {
            continue;
        }
        // What the cache does not know is read, by few at once: a stream that finds no permit looks again at its next turn.
        let Ok(_permit) = key.budgets().permits.try_take(&key.share(), 1) else { continue };
        let evaluated = key.evaluate_unused(app).await.and_then(|caller| caller.require(scope::VALIDATE).map(drop));
        if let Err(error @ (Error::Denied(_) | Error::CredentialsInvalid | Error::CredentialsMissing(_))) = evaluated {
            return status::of(error);
        }
    }
}
