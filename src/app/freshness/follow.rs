//! Following the feed: what one poll does to memory and to the lease.

use super::{
    absent::Absent,
    lease::Lease,
    memory::Memory,
    revoked::Revoked,
    sync::{Arc, AtomicU64, Ordering},
};
use crate::{
    clock::Uptime,
    domain::audit_event::Action,
    seeded::{self, Bug, POLLED_ROWS},
    store::{LoggedChange, Polled, Revision},
};

/// What should never happen to a feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Anomaly {
    /// Another history, by its name.
    NewEpoch,
    /// The head is before the position that was applied, or rows go beyond it.
    SteppedBack,
    /// The change at the position that was applied is another than it was.
    OtherNonce,
    /// A number is missing.
    Hole,
    /// A number comes twice.
    Duplicate,
    /// A row that this binary does not understand.
    UnknownKind,
}

impl Anomaly {
    /// The name in logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NewEpoch => "new_epoch",
            Self::SteppedBack => "stepped_back",
            Self::OtherNonce => "other_nonce",
            Self::Hole => "hole",
            Self::Duplicate => "duplicate",
            Self::UnknownKind => "unknown_kind",
        }
    }
}

/// What came of a poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything there was is applied, and the lease extended.
    UpToDate,
    /// There is more; poll again at once.
    Behind,
    /// The node is not the writer: as good as no answer.
    NotTheWriter,
    /// Everything was dropped; poll again at once, to follow what there is now.
    Dropped(Anomaly),
}

/// What a poll acts upon.
pub(crate) struct Followed<R> {
    /// Until when memory may be believed.
    pub(crate) lease: Lease,
    /// The keys.
    pub(crate) memory: Memory<R>,
    /// The credentials that do not exist.
    pub(crate) absent: Absent,
    /// What was seen revoked.
    pub(crate) revoked: Revoked,
    /// Changes there are after the position that was applied.
    pub(crate) lag: AtomicU64,
}

/// Where in the feed the process is.
#[derive(Debug, Default)]
pub(crate) struct Follower {
    known: Option<Known>,
    accepts: Option<i64>,
}

#[derive(Clone, Debug)]
struct Known {
    epoch: Arc<str>,
    seq: i64,
    /// Of the change `seq`; none if the log has no such row, as before the first change.
    nonce: Option<i64>,
}

impl Follower {
    /// The change up to which everything is applied; none if no history is followed.
    pub(crate) fn applied(&self) -> Option<i64> {
        self.known.as_ref().map(|known| known.seq)
    }

    /// Applies the answer to the poll that began at `began` (steps 3, 5, 7 and 8 of the argument).
    pub(crate) fn apply<R>(&mut self, polled: &Polled, began: Uptime, on: &Followed<R>) -> Outcome {
        let was_writer = polled.was_writer || seeded::bug(Bug::RoleNotCheckedAtConnect);
        let counts = polled.is_writer && was_writer || seeded::bug(Bug::RoleNotCheckedInPoll);
        if !counts {
            return Outcome::NotTheWriter;
        }
        if self.accepts.replace(polled.head.accepts).is_some_and(|before| before != polled.head.accepts) {
            on.revoked.accept();
        }
        let changes = match self.new_changes(polled) {
            Ok(changes) => changes,
            Err(anomaly) => {
                self.drop_everything(on);
                return Outcome::Dropped(anomaly);
            }
        };
        let head = &polled.head.revision;
        for change in changes {
            apply_change(change, head.epoch(), on);
        }
        let last = match &self.known {
            Some(_) => polled.changes.last(),
            // Where a history begins to be followed, it is from its head on.
            None => polled.changes.iter().find(|change| change.seq == head.seq()),
        };
        let seq = last.map_or_else(|| head.seq(), |change| change.seq);
        self.known = Some(Known { epoch: Arc::clone(head.epoch()), seq, nonce: last.map(|change| change.nonce) });
        on.lag.store(u64::try_from(head.seq().saturating_sub(seq)).unwrap_or(0), Ordering::Relaxed);
        let position = Revision::new(Arc::clone(head.epoch()), seq);
        let is_all = seq == head.seq() || seeded::bug(Bug::AutoIncrementPoll);
        let may_extend = polled.head.is_lease_valid || seeded::bug(Bug::BrokenLeaseGranted);
        if may_extend && (is_all || seeded::bug(Bug::LeaseExtendedWithBacklog)) {
            on.lease.extend(&position, began, polled.head.lease);
        } else {
            on.lease.advance(&position);
        }
        if !may_extend {
            on.lease.expire();
        }
        if is_all { Outcome::UpToDate } else { Outcome::Behind }
    }

    /// Forgets everything, and where in the feed it was; nothing is believed until a history is followed again.
    pub(crate) fn drop_everything<R>(&mut self, on: &Followed<R>) {
        // The lease first: whoever reads it now finds nothing fresh, and whoever read it before is of before.
        on.lease.end();
        on.memory.drop_everything();
        on.absent.drop_everything(on.memory.generation());
        self.known = None;
    }

    /// The rows after the position that was applied, all of them in order and none left out up to the last one.
    fn new_changes<'a>(&self, polled: &'a Polled) -> Result<&'a [LoggedChange], Anomaly> {
        let head = &polled.head.revision;
        // Nothing is remembered yet, so nothing has to be forgotten.
        let Some(known) = &self.known else { return Ok(&[]) };
        if known.epoch != *head.epoch() {
            return Err(Anomaly::NewEpoch);
        }
        if seeded::bug(Bug::AutoIncrementPoll) {
            let after = polled.changes.iter().position(|change| change.seq > known.seq);
            return Ok(after.map_or(&[], |after| &polled.changes[after..]));
        }
        if head.seq() < known.seq {
            return Err(Anomaly::SteppedBack);
        }
        let (at, after) = match polled.changes.split_first() {
            Some((first, rest)) if first.seq == known.seq => (Some(first), rest),
            _ => (None, polled.changes.as_slice()),
        };
        match (at.map(|change| change.nonce), known.nonce) {
            (found, before) if found == before => {}
            (Some(_), _) => return Err(Anomaly::OtherNonce),
            (None, _) => return Err(Anomaly::Hole),
        }
        let mut expected = known.seq;
        for change in after {
            expected += 1;
            if change.seq < expected {
                return Err(Anomaly::Duplicate);
            }
            if change.seq > expected {
                return Err(Anomaly::Hole);
            }
            if change.seq > head.seq() {
                return Err(Anomaly::SteppedBack);
            }
            if change.key_id.is_none() || Action::numbered(change.kind).is_none() {
                return Err(Anomaly::UnknownKind);
            }
        }
        let was_cut = polled.changes.len() as u64 >= POLLED_ROWS;
        if expected < head.seq() && !was_cut { Err(Anomaly::Hole) } else { Ok(after) }
    }
}

fn apply_change<R>(change: &LoggedChange, epoch: &Arc<str>, on: &Followed<R>) {
    let (Some(key), Some(action)) = (change.key_id, Action::numbered(change.kind)) else { return };
    if action.makes_a_credential() {
        on.absent.forget_before(change.seq);
    }
    if action == Action::Delete && change.version > 0 {
        on.revoked.saw_deletion(&Revision::new(Arc::clone(epoch), change.seq), key, change.version);
    }
    on.memory.drop_key(key, change.seq);
}
