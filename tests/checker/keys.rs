//! The keys that are asked about: those that nobody changes, those that live, and those that something is happening to.

use std::sync::{Arc, Mutex, RwLock};

use super::{
    clock::Moment,
    history::{Change, History},
};
use crate::rig::Dice;

/// One key.
pub struct Key {
    pub id: String,
    pub history: Mutex<History>,
    /// A key string of its first credential with a secret that nobody issued.
    pub forged: String,
}

/// All keys that may be asked about now.
#[derive(Default)]
pub struct Keys {
    warm: RwLock<Vec<Arc<Key>>>,
    live: RwLock<Vec<Arc<Key>>>,
    focus: RwLock<Vec<Arc<Key>>>,
    ended: RwLock<Vec<Arc<Key>>>,
}

/// Which keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Those that nobody changes: valid from the beginning to the end.
    Warm,
    /// Those that will be changed some time.
    Live,
    /// Those that are being changed, or were a moment ago.
    Focus,
    /// Those whose Delete was answered as enforced a moment ago: none may be valid any more.
    Ended,
}

impl Key {
    /// Notes that a change is about to be asked for, and gives its number.
    pub fn begin(&self, change: Change, start: Moment) -> usize {
        self.history.lock().expect("nobody panics here").begin(change, start)
    }

    /// Notes that it was answered.
    pub fn end(&self, act: usize, end: Moment, enforced: bool, revision: &str) {
        self.history.lock().expect("nobody panics here").end(act, end, enforced, revision);
    }

    /// One of its secrets, most often the newest, by its number.
    pub fn secret(&self, dice: &mut Dice) -> (usize, String) {
        let history = self.history.lock().expect("nobody panics here");
        let last = history.secrets.len() - 1;
        let number = if dice.one_in(3) { dice.index(last + 1) } else { last };
        (number, history.secrets[number].key.clone())
    }
}

impl Keys {
    fn group(&self, group: Group) -> &RwLock<Vec<Arc<Key>>> {
        match group {
            Group::Warm => &self.warm,
            Group::Live => &self.live,
            Group::Focus => &self.focus,
            Group::Ended => &self.ended,
        }
    }

    /// Puts a key among them.
    pub fn add(&self, group: Group, key: &Arc<Key>) {
        self.group(group).write().expect("nobody panics here").push(Arc::clone(key));
    }

    /// Takes a key out.
    pub fn remove(&self, group: Group, key: &Arc<Key>) {
        let mut keys = self.group(group).write().expect("nobody panics here");
        if let Some(at) = keys.iter().position(|other| Arc::ptr_eq(other, key)) {
            keys.swap_remove(at);
        }
    }

    /// One of them, if there is any.
    pub fn pick(&self, group: Group, dice: &mut Dice) -> Option<Arc<Key>> {
        let keys = self.group(group).read().expect("nobody panics here");
        (!keys.is_empty()).then(|| Arc::clone(&keys[dice.index(keys.len())]))
    }

    /// All of them.
    pub fn all(&self, group: Group) -> Vec<Arc<Key>> {
        self.group(group).read().expect("nobody panics here").clone()
    }
}
