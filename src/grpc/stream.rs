//! `ValidateStream`: questions and answers on one call, each item by itself.
//!
//! Whatever is judged is judged for each item: the lease, the time, and the caller's own right. An item that can be
//! answered from memory is answered where it was read; the others wait beside each other, and none holds up the next.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, Stream, StreamExt, future::select, stream::FuturesUnordered};
use prost::Message;
use rand::{TryRng, rngs::SysRng};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{Code, Status, Streaming};

use super::{
    answer::Answer,
    auth::CallerKey,
    items::{Item, Said},
    outer::{after_panic, cause_of, explained},
    proto::{self, ErrorReason},
    question::Question,
    request_body, status,
};
use crate::{
    admission::Grant,
    app::{App, Guest},
    domain::{Caller, Error, error::Unavailable, scope},
    seeded::{self, Batch, Bug},
    trace,
};

/// Items in work at once, at most; then reading pauses, and HTTP/2 slows the client down.
const MOST: usize = 1_024;
/// No item takes longer.
const LONGEST: Duration = Duration::from_secs(15);
/// How often the caller of a stream is evaluated while nothing is asked. A stream ends within 5 s of its caller's end.
const EVALUATED_EVERY: Duration = Duration::from_secs(2);
/// While there is always something to read, it is looked so often whether the stream has come to its end.
const LOOKS_EVERY: u32 = 64;

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
    fn of_a_stream(&self) -> impl Future<Output = ()> + Send + use<> {
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
enum End {
    /// By its age, or because the server shuts down. What was read is answered.
    Drained,
    /// The caller is no longer valid, or others need the stream's place. Nothing more is read, evaluated or answered.
    Refused(Status),
}

/// Watches over a stream beside it, so that it ends although its client neither sends nor reads.
async fn watch_over(app: Arc<App>, key: Arc<CallerKey>, place: Grant, drained: impl Future<Output = ()>) -> End {
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
    let mut looks = tokio::time::interval_at(Instant::now() + EVALUATED_EVERY, EVALUATED_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if key.may_still_validate(app) || seeded::bug(Bug::CallerJudgedAtStart) {
            continue;
        }
        let evaluated = key.evaluate(app).await.and_then(|caller| caller.require(scope::VALIDATE).map(drop));
        if let Err(error @ (Error::Denied(_) | Error::CredentialsInvalid | Error::CredentialsMissing(_))) = evaluated {
            return status::of(error);
        }
    }
}

/// What came of an item: its answer, or the end of the stream because the caller may not ask any more.
pub(super) type Outcome = Result<Item, Status>;

/// Whether there is more to read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    On,
    /// The client has said all it wanted.
    Done,
    /// The stream has come to its end; what was read is answered.
    Drained,
    /// Nothing more is to be said.
    Over,
}

/// The answers of one stream, in the order in which they are ready.
pub struct Answers {
    app: Arc<App>,
    key: Arc<CallerKey>,
    /// The caller, as it was let in last.
    guest: Option<Guest>,
    /// For one of the checker's bugs alone: who called when the stream was opened is no reason to answer now.
    at_start: Caller,
    questions: Streaming<proto::ValidateStreamRequest>,
    reading: Reading,
    /// Each item in a task of its own: a client that does not read must not keep what the work holds.
    working: FuturesUnordered<Work>,
    /// Holds the stream's place among all streams.
    end: AbortOnDropHandle<End>,
    read: u32,
    batch: Batch,
}

impl Answers {
    pub(super) fn new(
        app: &Arc<App>,
        key: Arc<CallerKey>,
        at_start: &Caller,
        place: Grant,
        questions: Streaming<proto::ValidateStreamRequest>,
        ends: &Ends,
    ) -> Self {
        let end = watch_over(Arc::clone(app), Arc::clone(&key), place, ends.of_a_stream());
        Self {
            app: Arc::clone(app),
            key,
            guest: None,
            at_start: at_start.clone(),
            questions,
            reading: Reading::On,
            working: FuturesUnordered::new(),
            end: AbortOnDropHandle::new(tokio::spawn(end)),
            read: 0,
            batch: Batch::default(),
        }
    }

    /// Reads the next question and begins with it. Ready if it is answered at once, or if there is nothing to read any more.
    fn poll_question(&mut self, context: &mut Context<'_>) -> Poll<Option<Outcome>> {
        while self.reading == Reading::On && self.working.len() < MOST {
            self.read = self.read.wrapping_add(1);
            if self.read.is_multiple_of(LOOKS_EVERY)
                && let Poll::Ready(end) = self.poll_end(context)
            {
                return Poll::Ready(end);
            }
            match self.questions.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(item))) => {
                    let (sequence, question) = (item.sequence, item.request.unwrap_or_default().into());
                    if let Some(answer) = self.answer_at_once(&question) {
                        return Poll::Ready(Some(Ok(Item::new(sequence, Said::Answer(answer)))));
                    }
                    let work = tokio::spawn(trace::following(in_time(sequence, self.work_on(sequence, question))));
                    self.working.push(Work { sequence, task: AbortOnDropHandle::new(work) });
                }
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(Err(explained(&status)))),
                Poll::Ready(None) => self.reading = Reading::Done,
                Poll::Pending => {
                    if self.working.is_empty() {
                        self.batch = Batch::default();
                    }
                    return self.poll_end(context);
                }
            }
        }
        if self.reading == Reading::On { Poll::Pending } else { Poll::Ready(None) }
    }

    /// Whether the stream has come to its end: nothing more is read then, and a refusal is the last that is said.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<Option<Outcome>> {
        self.end.poll_unpin(context).map(|end| {
            self.reading = Reading::Drained;
            match end {
                Ok(End::Drained) => None,
                Ok(End::Refused(status)) => Some(Err(status)),
                Err(_) => Some(Err(status::of(Error::fault("the task that watches over a stream ended")))),
            }
        })
    }

    /// What nearly all items come to, without a future of their own. A panic is left to that.
    fn answer_at_once(&mut self, question: &Question) -> Option<Answer> {
        let batch = self.batch.clone();
        let answer = async {
            if seeded::bug(Bug::CallerJudgedAtStart) {
                return question.answer_at_once(&self.app, &self.at_start);
            }
            if !self.guest.as_ref().is_some_and(|guest| self.app.lets_in_again(guest)) {
                self.guest = self.key.evaluate_at_once(&self.app);
            }
            question.answer_at_once(&self.app, self.guest.as_ref()?.caller())
        };
        AssertUnwindSafe(seeded::in_batch(batch, answer)).catch_unwind().now_or_never()?.ok()?
    }

    fn work_on(&self, sequence: u64, question: Question) -> impl Future<Output = Outcome> + Send + use<> {
        let (app, key) = (Arc::clone(&self.app), Arc::clone(&self.key));
        let at_start = seeded::bug(Bug::CallerJudgedAtStart).then(|| self.at_start.clone());
        let work = async move {
            let outcome = async {
                let _permit = key.budgets().permits.take(&key.share(), 1).await.map_err(|_full| overloaded())?;
                loop {
                    let began = app.evaluation_begins();
                    let caller = match &at_start {
                        Some(caller) => caller.clone(),
                        None => key.evaluate(&app).await?,
                    };
                    let answer = question.answer(&app, &caller).await;
                    if !app.is_outdated(began) {
                        return answer;
                    }
                }
            };
            match outcome.await {
                Ok(answer) => Ok(Item::new(sequence, Said::Answer(answer))),
                Err(error @ (Error::Denied(_) | Error::CredentialsInvalid | Error::CredentialsMissing(_))) => {
                    Err(status::of(error))
                }
                Err(error) => Ok(failed(sequence, &status::of(error))),
            }
        };
        let work = seeded::in_batch(self.batch.clone(), work);
        AssertUnwindSafe(work)
            .catch_unwind()
            .map(move |outcome| outcome.unwrap_or_else(|panic| Ok(failed(sequence, &after_panic(panic.as_ref())))))
    }

    fn say(&mut self, outcome: Outcome) -> Poll<Option<Outcome>> {
        if outcome.is_err() {
            self.reading = Reading::Over;
        }
        Poll::Ready(Some(outcome))
    }
}

impl Stream for Answers {
    type Item = Outcome;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.reading == Reading::Over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(Some(outcome)) = self.working.poll_next_unpin(context) {
            return self.say(outcome);
        }
        if let Poll::Ready(Some(outcome)) = self.poll_question(context) {
            return self.say(outcome);
        }
        // What was begun just now has to know whom to wake.
        match self.working.poll_next_unpin(context) {
            Poll::Ready(Some(outcome)) => self.say(outcome),
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) if self.reading == Reading::On => Poll::Pending,
            Poll::Ready(None) => {
                let drained = self.reading == Reading::Drained;
                self.reading = Reading::Over;
                Poll::Ready(drained.then(|| Err(status::of(Error::Unavailable(Unavailable::StreamDrained)))))
            }
        }
    }
}

fn overloaded() -> Error {
    Error::Overloaded { retry_after: request_body::RETRY_AFTER }
}

/// An item that is worked on.
struct Work {
    sequence: u64,
    task: AbortOnDropHandle<Outcome>,
}

impl Future for Work {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let sequence = self.sequence;
        self.task.poll_unpin(context).map(|outcome| {
            outcome
                .unwrap_or_else(|_| Ok(failed(sequence, &status::of(Error::fault("the work on an item was cut off")))))
        })
    }
}

/// An item that could not be answered at once, and how long it may take.
async fn in_time(sequence: u64, work: impl Future<Output = Outcome>) -> Outcome {
    match tokio::time::timeout(LONGEST, work).await {
        Ok(outcome) => outcome,
        Err(_late) => {
            Ok(failed(sequence, &status::plain(ErrorReason::DeadlinePassed, "the item took longer than 15 seconds")))
        }
    }
}

/// The answer to an item that could not be decided: what the call alone would have ended with.
fn failed(sequence: u64, status: &Status) -> Item {
    if matches!(status.code(), Code::Internal | Code::Unknown) {
        tracing::error!(
            rpc = "ValidateStream",
            code = status::code_name(status.code()),
            cause = cause_of(status),
            "an item failed"
        );
    }
    // The details of a status are a `google.rpc.Status` of their own, if there are any.
    let error = tonic_types::Status::decode(status.details()).unwrap_or_default();
    let error = tonic_types::Status { code: status.code().into(), message: status.message().to_owned(), ..error };
    Item::new(sequence, Said::Error(error))
}
