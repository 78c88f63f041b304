//! Connections grouped by share.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use super::{ConnectionHandle, Share};

/// Connections by share, with the largest share at hand.
#[derive(Default)]
pub(super) struct Groups {
    by_share: HashMap<Share, BTreeMap<u64, ConnectionHandle>>,
    /// Size, number of the oldest, share: of equally large ones the last is the one that has the oldest connection.
    by_size: BTreeSet<(usize, Reverse<u64>, Share)>,
    size: usize,
}

impl Groups {
    pub(super) fn insert(&mut self, share: &Share, handle: &ConnectionHandle) {
        self.change(share, |group| drop(group.insert(handle.number(), handle.clone())));
    }

    pub(super) fn remove(&mut self, share: &Share, number: u64) {
        self.change(share, |group| drop(group.remove(&number)));
    }

    /// How many connections there are in all.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    fn change(&mut self, share: &Share, change: impl FnOnce(&mut BTreeMap<u64, ConnectionHandle>)) {
        let group = self.by_share.entry(share.clone()).or_default();
        let before = group.len();
        if let Some((oldest, _)) = group.first_key_value() {
            self.by_size.remove(&(before, Reverse(*oldest), share.clone()));
        }
        change(group);
        self.size = self.size + group.len() - before;
        match group.first_key_value() {
            Some((oldest, _)) => {
                self.by_size.insert((group.len(), Reverse(*oldest), share.clone()));
            }
            None => {
                self.by_share.remove(share);
            }
        }
    }

    fn largest(&self) -> Option<&BTreeMap<u64, ConnectionHandle>> {
        let (_, _, share) = self.by_size.last()?;
        self.by_share.get(share)
    }

    pub(super) fn oldest_of_largest(&self) -> Option<&ConnectionHandle> {
        self.largest()?.values().next()
    }

    pub(super) fn oldest_idle_of_largest(&self) -> Option<&ConnectionHandle> {
        self.largest()?.values().find(|handle| handle.is_idle())
    }

    pub(super) fn handles(&self) -> impl Iterator<Item = &ConnectionHandle> {
        self.by_share.values().flat_map(BTreeMap::values)
    }
}
