//! A map of bounded size. When it is full, an entry that was not asked for lately makes room (the second chance, or
//! clock, algorithm).

use std::hash::{BuildHasher, Hash};

use hashbrown::HashTable;

use super::scatter::Scatter;

/// See the module.
#[derive(Debug)]
pub(crate) struct Bounded<K, V> {
    /// Where in `entries` each key is: four bytes each, while a map of keys to places would hold every key twice.
    places: HashTable<u32>,
    hashing: Scatter,
    entries: Vec<Entry<K, V>>,
    /// Of each entry. Beside them and not in them, where each would take eight bytes.
    was_asked_for: Vec<bool>,
    hand: usize,
    most: usize,
    /// Whether a value was asked for past this map since this was called last.
    was_asked_past: fn(&mut V) -> bool,
}

#[derive(Debug)]
struct Entry<K, V> {
    key: K,
    value: V,
}

impl<K: Copy + Eq + Hash, V> Bounded<K, V> {
    /// Holds at most `most` entries, at least one.
    pub(crate) fn new(most: usize) -> Self {
        Self::asked_past(most, |_| false)
    }

    /// The same of values that are also asked for past this map: each tells whether it was since it told last.
    pub(crate) fn asked_past(most: usize, was_asked_past: fn(&mut V) -> bool) -> Self {
        Self {
            places: HashTable::new(),
            hashing: Scatter::default(),
            entries: Vec::new(),
            was_asked_for: Vec::new(),
            hand: 0,
            most: most.clamp(1, u32::MAX as usize),
            was_asked_past,
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The value of `key`, which is wanted and had better stay.
    pub(crate) fn find(&mut self, key: &K) -> Option<&mut V> {
        let place = self.place(key)?;
        // Written only if it changes: a line that is read alone stays with every core.
        if !self.was_asked_for[place] {
            self.was_asked_for[place] = true;
        }
        Some(&mut self.entries[place].value)
    }

    /// Puts a value in, in the place of the one before. True if another entry had to go.
    pub(crate) fn insert(&mut self, key: K, value: V) -> bool {
        if let Some(place) = self.place(&key) {
            self.entries[place].value = value;
            return false;
        }
        let evicts = self.entries.len() >= self.most;
        if evicts {
            self.evict();
        }
        // Fits: there are at most `most`.
        let place = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        self.entries.push(Entry { key, value });
        self.was_asked_for.push(false);
        let (hashing, entries) = (&self.hashing, &self.entries);
        self.places.insert_unique(hashing.hash_one(key), place, |place| hashing.hash_one(entries[*place as usize].key));
        evicts
    }

    /// Takes the entry of `key` out.
    pub(crate) fn remove(&mut self, key: &K) {
        let (hash, entries) = (self.hashing.hash_one(key), &self.entries);
        let Ok(found) = self.places.find_entry(hash, |place| entries[*place as usize].key == *key) else { return };
        let (place, _) = found.remove();
        // The last one takes its place.
        let last = u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX);
        self.entries.swap_remove(place as usize);
        self.was_asked_for.swap_remove(place as usize);
        if let Some(moved) = self.entries.get(place as usize)
            && let Some(found) = self.places.find_mut(self.hashing.hash_one(moved.key), |place| *place == last)
        {
            *found = place;
        }
    }

    /// Forgets everything, and gives the room back.
    pub(crate) fn clear(&mut self) {
        *self = Self::asked_past(self.most, self.was_asked_past);
    }

    fn place(&self, key: &K) -> Option<usize> {
        let hash = self.hashing.hash_one(key);
        self.places.find(hash, |place| self.entries[*place as usize].key == *key).map(|place| *place as usize)
    }

    fn evict(&mut self) {
        // Ends: whoever was asked for is so no more once the hand has passed.
        loop {
            self.hand = if self.hand < self.entries.len() { self.hand } else { 0 };
            let Some(entry) = self.entries.get_mut(self.hand) else { return };
            let was_asked_for = std::mem::take(&mut self.was_asked_for[self.hand]);
            if (self.was_asked_past)(&mut entry.value) || was_asked_for {
                self.hand += 1;
            } else {
                let key = entry.key;
                self.remove(&key);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stays_and_the_bound_holds() {
        let mut map = Bounded::new(4);
        assert!((0..4).all(|key| !map.insert(key, key * 10)));
        for key in 4..100 {
            assert_eq!(map.find(&2), Some(&mut 20), "{key}");
            assert!(map.insert(key, key * 10));
            assert_eq!(map.len(), 4);
            assert_eq!(map.find(&key), Some(&mut (key * 10)));
        }
        map.remove(&2);
        assert!(map.find(&2).is_none() && map.len() == 3);
        assert!(!map.insert(99, 1), "in the place of the one before");
        assert_eq!(map.find(&99), Some(&mut 1));
        map.clear();
        assert!(map.find(&99).is_none() && map.len() == 0);
    }

    #[test]
    fn what_is_asked_for_past_the_map_stays_as_well() {
        let mut map = Bounded::asked_past(2, std::mem::take::<bool>);
        map.insert(1, true);
        map.insert(2, false);
        assert!(map.insert(3, false));
        assert!(map.find(&1).is_some() && map.find(&2).is_none(), "the first one was asked for");
        map.clear();
        map.insert(4, true);
        map.insert(5, false);
        map.insert(6, false);
        assert!(map.find(&4).is_some() && map.len() == 2);
    }

    #[test]
    fn there_is_always_room_for_one() {
        let mut map = Bounded::new(0);
        assert!(!map.insert(1, ()) && map.find(&1).is_some() && map.insert(2, ()));
        assert_eq!((map.len(), map.find(&1).is_some()), (1, false));
    }
}
