//! The queue in front of the database's writers: revocations go first, and no caller keeps the others from their turn.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::{FairQueue, Full, Share};

/// Changes that are not revocations, waiting and in work, in all.
const CHANGES: usize = 1_024;
/// The same of one share: others always find room.
const CHANGES_OF_SHARE: usize = CHANGES - CHANGES / 8;
/// The same of one caller.
const CHANGES_OF_CALLER: usize = 512;
/// Revocations that wait, in all, and of one merchant. Both bind only while another merchant waits.
const REVOCATIONS: usize = 1_024;
const REVOCATIONS_OF_SHARE: usize = 64;

/// Turns of changes after which the work of the service itself has one, or a client in a loop of changes could keep it from
/// erasing and purging. Revocations go before it all the same.
const CHANGES_IN_A_ROW: usize = 16;

/// What a turn is for, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Delete, or an Update that does nothing but disable.
    Revocation,
    /// Rotate without overlap.
    Rotation,
    /// Any other change that a caller makes.
    Change,
    /// What the service writes in its own time: usage, erasure, purge, renewed hashes.
    Background,
}

/// Who makes a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changer {
    /// The merchant of the caller, or the caller alone if it reaches all merchants.
    pub share: Share,
    /// The id of the caller's key.
    pub caller: [u8; 16],
}

/// Turns at the writers of the database. Cheap to clone; clones are the same queue.
#[derive(Clone)]
pub struct ChangeQueue(Arc<Mutex<State>>);

type Line = FairQueue<Share, [u8; 16], oneshot::Sender<Turn>>;

struct State {
    free: usize,
    /// Whether the writer that is reserved for revocations is free; none if there is none.
    reserved_free: Option<bool>,
    /// By [`Urgency`].
    lines: [Line; 4],
    /// Turns that changes have had since background work began to wait.
    changes_in_a_row: usize,
    /// Changes that are not revocations, from their beginning to their commit.
    changes: Vec<Changer>,
    /// How many revocations there are, from their beginning to their commit.
    revocations: usize,
}

/// The right to use one writer of the database. Dropping it passes it on.
#[must_use = "dropping a turn passes it on"]
pub struct Turn {
    queue: Option<ChangeQueue>,
    is_reserved: bool,
}

/// A place among the changes that wait or are in work. Dropping it gives it back.
#[must_use = "dropping a place gives it back"]
pub struct ChangePlace {
    queue: ChangeQueue,
    urgency: Urgency,
    changer: Changer,
}

impl ChangeQueue {
    /// For so many writers, and one more for revocations alone if it `is_reserved`.
    pub fn new(writers: usize, is_reserved: bool) -> Self {
        Self(Arc::new(Mutex::new(State {
            free: writers.max(1),
            reserved_free: is_reserved.then_some(true),
            lines: Default::default(),
            changes_in_a_row: 0,
            changes: Vec::new(),
            revocations: 0,
        })))
    }

    /// Takes a place for a change.
    ///
    /// # Errors
    /// [`Full`]; a revocation is refused only in [`ChangePlace::turn`].
    pub fn enter(&self, urgency: Urgency, changer: Changer) -> Result<ChangePlace, Full> {
        let mut state = self.lock();
        if urgency == Urgency::Change {
            let of_share = state.changes.iter().filter(|other| other.share == changer.share).count();
            let of_caller = state.changes.iter().filter(|other| other.caller == changer.caller).count();
            if of_share >= CHANGES_OF_SHARE || of_caller >= CHANGES_OF_CALLER {
                return Err(Full::Share);
            }
            if state.changes.len() >= CHANGES {
                return Err(Full::Budget);
            }
            state.changes.push(changer.clone());
        } else {
            state.revocations += 1;
        }
        Ok(ChangePlace { queue: self.clone(), urgency, changer })
    }

    /// Waits for a turn of what the service does in its own time. Cancel safe.
    pub async fn background(&self) -> Turn {
        let changer = Changer { share: Share::Unlearned, caller: [0; 16] };
        // Nothing in this line is refused.
        self.turn(Urgency::Background, &changer).await.unwrap_or(Turn { queue: None, is_reserved: false })
    }

    /// Changes that are not revocations, from their beginning to their commit.
    pub fn changes(&self) -> usize {
        self.lock().changes.len()
    }

    /// The same of revocations.
    pub fn revocations(&self) -> usize {
        self.lock().revocations
    }

    /// Waiting changes and revocations.
    pub fn waiting(&self) -> usize {
        self.lock().lines.iter().map(FairQueue::len).sum()
    }

    async fn turn(&self, urgency: Urgency, changer: &Changer) -> Result<Turn, Full> {
        let granted = {
            let mut state = self.lock();
            if let Some(turn) = state.take(self, urgency) {
                return Ok(turn);
            }
            if urgency <= Urgency::Rotation {
                state.make_room(changer)?;
            }
            let line = &mut state.lines[urgency as usize];
            if line.len() >= CHANGES {
                // Changes that waited too long and left are in it still.
                line.retain(|waiting| !waiting.is_closed());
            }
            let (grant, granted) = oneshot::channel();
            state.lines[urgency as usize].push(changer.share.clone(), changer.caller, grant);
            granted
        };
        // What gives way is dropped without an answer.
        granted.await.map_err(|_| Full::Budget)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change of the state is complete before the lock is released, so a panic leaves it consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A turn at once, if a writer is free. While something waits that is as urgent, no writer is.
    fn take(&mut self, queue: &ChangeQueue, urgency: Urgency) -> Option<Turn> {
        let is_reserved = if self.free > 0 {
            self.free -= 1;
            false
        } else if urgency <= Urgency::Rotation && self.reserved_free == Some(true) {
            self.reserved_free = Some(false);
            true
        } else {
            return None;
        };
        Some(Turn { queue: Some(queue.clone()), is_reserved })
    }

    /// Makes room for one more revocation.
    fn make_room(&mut self, changer: &Changer) -> Result<(), Full> {
        let [deletes, rotations, ..] = &mut self.lines;
        deletes.retain(|waiting| !waiting.is_closed());
        rotations.retain(|waiting| !waiting.is_closed());
        let all = deletes.len() + rotations.len();
        let own = deletes.len_of(&changer.share) + rotations.len_of(&changer.share);
        let others_wait = all > own;
        if others_wait && own >= REVOCATIONS_OF_SHARE {
            return Err(Full::Share);
        }
        if others_wait && all >= REVOCATIONS {
            // Rotations give way first.
            let given = rotations.pop_newest_of_largest(own + 1).or_else(|| deletes.pop_newest_of_largest(own + 1));
            return given.map(drop).ok_or(Full::Budget);
        }
        Ok(())
    }

    /// Gives a writer that became free to the next that waits, and returns it if none does.
    fn pass_on(&mut self, queue: &ChangeQueue, is_reserved: bool) {
        use Urgency::{Background, Change, Revocation, Rotation};
        let order: &[Urgency] = if is_reserved {
            &[Revocation, Rotation]
        } else if self.changes_in_a_row >= CHANGES_IN_A_ROW {
            &[Revocation, Rotation, Background, Change]
        } else {
            &[Revocation, Rotation, Change, Background]
        };
        for urgency in order {
            while let Some(waiting) = self.lines[*urgency as usize].pop() {
                let turn = Turn { queue: Some(queue.clone()), is_reserved };
                match waiting.send(turn) {
                    Ok(()) => return self.count(*urgency),
                    // Its drop would take the lock that is held here.
                    Err(mut unwanted) => unwanted.queue = None,
                }
            }
        }
        if is_reserved { self.reserved_free = Some(true) } else { self.free += 1 }
    }
}

impl State {
    fn count(&mut self, urgency: Urgency) {
        let background_waits = !self.lines[Urgency::Background as usize].is_empty();
        match urgency {
            Urgency::Change if background_waits => self.changes_in_a_row += 1,
            Urgency::Change | Urgency::Background => self.changes_in_a_row = 0,
            Urgency::Revocation | Urgency::Rotation => {}
        }
    }
}

impl ChangePlace {
    /// Waits for a writer. Cancel safe.
    ///
    /// # Errors
    /// [`Full`] if too many revocations wait.
    pub async fn turn(&self) -> Result<Turn, Full> {
        self.queue.turn(self.urgency, &self.changer).await
    }
}

impl Drop for ChangePlace {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        if self.urgency == Urgency::Change {
            if let Some(index) = state.changes.iter().position(|other| *other == self.changer) {
                state.changes.swap_remove(index);
            }
        } else {
            state.revocations -= 1;
        }
    }
}

impl Turn {
    /// Whether it is at the writer that is reserved for revocations.
    pub fn is_reserved(&self) -> bool {
        self.is_reserved
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.lock().pass_on(&queue, self.is_reserved);
        }
    }
}

#[cfg(test)]
mod tests;
