//! The judge is shown what it has to catch, and what it must let pass.

use super::*;

fn at(millis: u64) -> Moment {
    Moment::at_millis(millis)
}

/// A key whose Create was answered at 100.
fn key() -> History {
    History::new("clv_one".to_owned(), at(100))
}

impl History {
    fn done(mut self, change: Change, start: u64, end: u64, enforced: bool) -> Self {
        let act = self.begin(change, at(start));
        self.end(act, at(end), enforced, "epoch.1");
        self
    }

    fn open(mut self, change: Change, start: u64) -> Self {
        self.begin(change, at(start));
        self
    }
}

fn seen(answer: Answer, start: u64, end: u64) -> Validation {
    Validation { secret: Some(0), start: at(start), end: at(end), answer, at_least: None, blind: false, renamed: None }
}

const DELETED: Answer = Answer::Flawed(Flaw::Deleted);
const DISABLED: Answer = Answer::Flawed(Flaw::Disabled);
const RETIRED: Answer = Answer::Flawed(Flaw::Retired);
const REFUSED: Answer = Answer::Flawed(Flaw::AddressRefused);

#[test]
fn a_valid_that_starts_after_an_enforced_end_is_caught() {
    for change in [Change::Delete, Change::Disable, Change::Narrow, Change::Rotate(1)] {
        let history = key().done(change, 200, 300, true);
        assert_eq!(judge(&history, &seen(Answer::Valid, 301, 302)), Some(Rule::ValidAfterEnforced), "{change:?}");
        assert_eq!(judge(&history, &seen(Answer::Valid, 300, 400)), None, "it may have started before the end");
    }
}

#[test]
fn what_is_not_enforced_or_not_answered_may_be_valid_still() {
    let unenforced = key().done(Change::Delete, 200, 300, false);
    assert_eq!(judge(&unenforced, &seen(Answer::Valid, 400, 401)), None);
    assert_eq!(judge(&key().open(Change::Delete, 200), &seen(Answer::Valid, 9_000, 9_001)), None);
}

#[test]
fn a_deletion_that_is_asked_for_again_counts_from_the_answer() {
    let history = key().open(Change::Delete, 200).done(Change::Delete, 5_000, 6_000, true);
    assert_eq!(judge(&history, &seen(Answer::Valid, 5_500, 5_600)), None);
    assert_eq!(judge(&history, &seen(DELETED, 5_500, 5_600)), None);
    assert_eq!(judge(&history, &seen(Answer::Valid, 6_001, 6_002)), Some(Rule::ValidAfterEnforced));
}

#[test]
fn what_may_have_been_opened_again_may_be_valid() {
    let closed = key().done(Change::Disable, 200, 300, true);
    let opening = closed.clone().open(Change::Enable, 400);
    assert_eq!(judge(&opening, &seen(Answer::Valid, 350, 399)), Some(Rule::ValidAfterEnforced));
    assert_eq!(judge(&opening, &seen(Answer::Valid, 350, 401)), None);
    assert_eq!(judge(&opening, &seen(DISABLED, 9_000, 9_001)), None);
    // An Enable that was never answered may happen after a Disable that was asked for later.
    let crossed =
        key().done(Change::Disable, 200, 300, true).open(Change::Enable, 400).done(Change::Disable, 500, 600, true);
    assert_eq!(judge(&crossed, &seen(Answer::Valid, 700, 701)), None);
    // One that was answered did happen before.
    let serial = closed.done(Change::Enable, 400, 450, true).done(Change::Disable, 500, 600, true);
    assert_eq!(judge(&serial, &seen(Answer::Valid, 700, 701)), Some(Rule::ValidAfterEnforced));
}

#[test]
fn a_refusal_before_its_cause_is_caught() {
    let causes = [
        (DELETED, Change::Delete),
        (DISABLED, Change::Disable),
        (REFUSED, Change::Narrow),
        (RETIRED, Change::Rotate(1)),
    ];
    for (answer, change) in causes {
        assert_eq!(judge(&key(), &seen(answer, 150, 160)), Some(Rule::RefusedBeforeItsCause), "{change:?}");
        let history = key().open(change, 200);
        assert_eq!(judge(&history, &seen(answer, 150, 199)), Some(Rule::RefusedBeforeItsCause), "{change:?}");
        assert_eq!(judge(&history, &seen(answer, 150, 201)), None, "{change:?}");
    }
}

#[test]
fn a_refusal_that_outlives_an_enforced_widening_is_caught() {
    let history = key().done(Change::Narrow, 200, 300, true).done(Change::Widen, 400, 1_500, true);
    assert_eq!(judge(&history, &seen(REFUSED, 1_501, 1_502)), Some(Rule::RefusedAfterWidening));
    assert_eq!(judge(&history, &seen(REFUSED, 1_499, 1_502)), None);
    let unenforced = key().done(Change::Narrow, 200, 300, true).done(Change::Widen, 400, 500, false);
    assert_eq!(judge(&unenforced, &seen(REFUSED, 600, 601)), None);
}

#[test]
fn what_was_seen_refused_in_another_history_may_stay_so() {
    let history = key().done(Change::Narrow, 200, 300, true).done(Change::Widen, 400, 1_500, true);
    let renamed = |millis| Validation { renamed: Some(at(millis)), ..seen(REFUSED, 1_600, 1_601) };
    assert_eq!(judge(&history, &renamed(199)), Some(Rule::RefusedAfterWidening));
    assert_eq!(judge(&history, &renamed(201)), None);
    let deleted = key().done(Change::Delete, 200, 300, true);
    let valid = Validation { answer: Answer::Valid, ..renamed(250) };
    assert_eq!(judge(&deleted, &valid), Some(Rule::ValidAfterEnforced));
}

#[test]
fn a_key_that_was_answered_is_found_and_so_is_a_new_secret() {
    assert_eq!(judge(&key(), &seen(Answer::NotFound, 101, 102)), Some(Rule::NotFoundAfterCreate));
    assert_eq!(judge(&key(), &seen(Answer::NotFound, 100, 102)), None);
    let mut rotated = key().done(Change::Rotate(1), 200, 300, true);
    rotated.secrets.push(crate::checker::history::Secret { key: "clv_two".to_owned(), known: at(300) });
    let second = |answer, start, end| Validation { secret: Some(1), ..seen(answer, start, end) };
    assert_eq!(judge(&rotated, &second(Answer::Valid, 301, 302)), None);
    assert_eq!(judge(&rotated, &second(RETIRED, 301, 302)), Some(Rule::RefusedBeforeItsCause));
    assert_eq!(judge(&rotated, &second(Answer::NotFound, 301, 302)), Some(Rule::NotFoundAfterCreate));
    assert_eq!(judge(&rotated, &second(Answer::NotFound, 250, 260)), None);
}

#[test]
fn nothing_is_valid_out_of_blind() {
    let blind = Validation { blind: true, ..seen(Answer::Valid, 200, 201) };
    assert_eq!(judge(&key(), &blind), Some(Rule::ValidOutOfBlind));
}

#[test]
fn an_answer_from_before_the_asked_revision_is_caught() {
    let history = key().done(Change::Delete, 200, 210, false);
    let since = |answer, start, end| Validation { at_least: Some(0), ..seen(answer, start, end) };
    assert_eq!(judge(&history, &since(Answer::Valid, 211, 212)), Some(Rule::AnsweredFromThePast));
    assert_eq!(judge(&history, &since(DELETED, 211, 212)), None);
    let widened = key().done(Change::Disable, 200, 300, true).done(Change::Enable, 400, 410, false);
    let since = |answer| Validation { at_least: Some(1), ..seen(answer, 411, 412) };
    assert_eq!(judge(&widened, &since(DISABLED)), Some(Rule::AnsweredFromThePast));
    assert_eq!(judge(&widened, &since(Answer::Valid)), None);
}

#[test]
fn who_shows_a_forged_secret_is_told_nothing() {
    let forged = |answer| Validation { secret: None, ..seen(answer, 200, 201) };
    let deleted = key().done(Change::Delete, 110, 120, true);
    assert_eq!(judge(&key(), &forged(Answer::Valid)), Some(Rule::ForgedSecretBelieved));
    assert_eq!(judge(&deleted, &forged(DELETED)), Some(Rule::ForgedSecretBelieved));
    assert_eq!(judge(&key(), &forged(Answer::NotFound)), None);
}
