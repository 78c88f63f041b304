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

use futures_util::{FutureExt, Stream, StreamExt, stream::FuturesUnordered};
use prost::Message;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status, Streaming};

pub use super::stream_end::Ends;
use super::{
    answer::Answer,
    auth::CallerKey,
    items::{Item, Said},
    outer::{after_panic, cause_of, explained},
    proto::{self, ErrorReason},
    question::Question,
    request_body, status,
    stream_end::{End, watch_over},
};
use crate::{
    admission::{CALL_BYTES, Grant},
    app::{App, Guest},
    domain::{Caller, Error, error::Unavailable},
    seeded::{self, Batch, Bug},
    trace,
};

/// Items in work at once, at most; then reading pauses, and HTTP/2 slows the client down.
const MOST: usize = 1_024;
/// No item takes longer.
const LONGEST: Duration = Duration::from_secs(15);
/// While there is always something to read, it is looked so often whether the stream has come to its end.
const LOOKS_EVERY: u32 = 64;

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
    end: Option<AbortOnDropHandle<End>>,
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
            end: Some(AbortOnDropHandle::new(tokio::spawn(end))),
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
        let Some(end) = &mut self.end else { return Poll::Pending };
        let end = std::task::ready!(end.poll_unpin(context));
        self.end = None;
        if self.reading == Reading::On {
            self.reading = Reading::Drained;
        }
        Poll::Ready(match end {
            Ok(End::Drained) => None,
            Ok(End::Refused(status)) => Some(Err(status)),
            Err(_) => Some(Err(status::of(Error::fault("the task that watches over a stream ended")))),
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
                // Counted until it is answered, as the body of a call is.
                let bytes = CALL_BYTES + question.size();
                let _bytes = key.budgets().bodies.try_take(&key.share(), bytes).map_err(|_full| overloaded())?;
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
            // Also where nothing is read, because too much is in work or the client has said all: the caller may lose its rights.
            Poll::Pending => match self.poll_end(context) {
                Poll::Ready(Some(refused)) => self.say(refused),
                Poll::Ready(None) | Poll::Pending => Poll::Pending,
            },
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
