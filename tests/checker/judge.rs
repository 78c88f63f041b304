//! The rules: which answers of Validate cannot be right. Pure functions of a key's history and of one answer.
//!
//! An act that was never answered may have happened or not, at any time from its start; an act that was answered
//! happened between its start and its end. An answer rests on a state of some time between the start and the end of its
//! question, or on an earlier one as far as that was allowed. What is told here as a violation is wrong in every order
//! of events that fits these bounds; an answer may be wrong without being told.

use super::{
    clock::Moment,
    history::{Act, Change, Flaw, History, Outcome},
};

#[cfg(test)]
mod tests;

/// One question and its answer.
#[derive(Clone, Debug)]
pub struct Validation {
    /// Which secret of the key was shown; none: one that nobody ever issued.
    pub secret: Option<usize>,
    pub start: Moment,
    pub end: Moment,
    pub answer: Answer,
    /// The act whose revision was asked for at least.
    pub at_least: Option<usize>,
    /// Whether the replica had no database since more than a lease before the start, and until after the end.
    pub blind: bool,
    /// When the history last got another name, if ever.
    pub renamed: Option<Moment>,
}

/// What Validate said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Valid,
    NotFound,
    Malformed,
    Flawed(Flaw),
    /// A decision for which these keys give no cause.
    Other,
}

/// The rule that an answer breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// No VALID starts after a Delete, Rotate or narrowing Update that answered `enforced` has ended.
    ValidAfterEnforced,
    /// No refusal starts after a widening Update that answered `enforced` has ended.
    RefusedAfterWidening,
    /// No DELETED ends before its Delete began; nor any other refusal before its cause.
    RefusedBeforeItsCause,
    /// No `NOT_FOUND` for a key whose Create has ended.
    NotFoundAfterCreate,
    /// Nothing VALID out of BLIND.
    ValidOutOfBlind,
    /// `min_revision` is never answered from the past.
    AnsweredFromThePast,
    /// Nothing is decided any more for a caller whose Delete was answered `enforced`, also on streams that were open before.
    CallerOutlivesItsRight,
    /// Nothing is told to whoever shows a secret that was never issued.
    ForgedSecretBelieved,
    /// A Delete succeeds within 10 s although another replica was frozen after it took its number.
    DeleteHeldUp,
    /// What was acknowledged is there, and errors are those that the documentation has for it.
    UnexpectedAnswer,
    /// At the end, with everything healthy, every replica knows every key as it is.
    WrongAtTheEnd,
}

/// Which rule the answer breaks, if any.
pub fn judge(history: &History, seen: &Validation) -> Option<Rule> {
    let Some(secret) = seen.secret else {
        let is_silent = matches!(seen.answer, Answer::NotFound | Answer::Malformed);
        return (!is_silent).then_some(Rule::ForgedSecretBelieved);
    };
    match seen.answer {
        Answer::Valid => judge_valid(history, seen, secret),
        Answer::Flawed(flaw) => judge_flaw(history, seen, secret, flaw),
        Answer::NotFound => {
            let known = history.secrets.get(secret).is_some_and(|secret| secret.known < seen.start);
            known.then_some(Rule::NotFoundAfterCreate)
        }
        Answer::Malformed | Answer::Other => Some(Rule::UnexpectedAnswer),
    }
}

fn judge_valid(history: &History, seen: &Validation, secret: usize) -> Option<Rule> {
    if seen.blind {
        return Some(Rule::ValidOutOfBlind);
    }
    for flaw in Flaw::ALL {
        let makes = |change| flaw.is_made_by(change, secret);
        let mends = |change| flaw.is_mended_by(change);
        if let Some(rule) = holds_for_sure(history, seen, makes, mends) {
            return Some(rule.unwrap_or(Rule::ValidAfterEnforced));
        }
    }
    None
}

fn judge_flaw(history: &History, seen: &Validation, secret: usize, flaw: Flaw) -> Option<Rule> {
    let makes = |change| flaw.is_made_by(change, secret);
    let mends = |change| flaw.is_mended_by(change);
    let Some(cause) = history.acts.iter().find(|act| makes(act.change) && act.start < seen.end) else {
        return Some(Rule::RefusedBeforeItsCause);
    };
    // What was seen revoked in one history stays refused in another, whatever its rows say, until an operator accepts it.
    if seen.renamed.is_some_and(|renamed| renamed > cause.start) {
        return None;
    }
    holds_for_sure(history, seen, mends, makes).map(|rule| rule.unwrap_or(Rule::RefusedAfterWidening))
}

/// Whether the answer had to know an act that `brings` something about, with no act since that could have `undone` it.
/// Gives the rule that says why it had to, if it is another one than that of `enforced`.
fn holds_for_sure(
    history: &History,
    seen: &Validation,
    brings: impl Fn(Change) -> bool,
    undoes: impl Fn(Change) -> bool,
) -> Option<Option<Rule>> {
    let bringing = history.acts.iter().enumerate().filter(|(_, act)| brings(act.change));
    for (number, act) in bringing {
        let Outcome::Done { end, enforced, .. } = act.outcome else { continue };
        let asked_for = seen.at_least.is_some_and(|least| number <= least);
        let had_to_be_known = asked_for || enforced && end < seen.start;
        if !had_to_be_known {
            continue;
        }
        if !history.acts.iter().any(|other| undoes(other.change) && may_follow(other, act, seen)) {
            return Some(asked_for.then_some(Rule::AnsweredFromThePast));
        }
    }
    None
}

/// Whether `other` may have happened after `act` and before the answer.
fn may_follow(other: &Act, act: &Act, seen: &Validation) -> bool {
    let before_the_answer = other.start < seen.end;
    let surely_before_the_act = matches!(other.outcome, Outcome::Done { end, .. } if end < act.start);
    before_the_answer && !surely_before_the_act
}
