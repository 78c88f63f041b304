//! A queue that is fair on two levels: groups take turns, and within a group its members do.

use std::collections::VecDeque;

/// Waiting work of groups (merchants, callers) and of members of each (callers, merchants of keys). The next one is always of
/// the group that has waited longest for its turn, and within that of the member that has.
#[derive(Debug)]
pub struct FairQueue<G, M, T> {
    groups: VecDeque<Group<G, M, T>>,
    waiting: usize,
}

#[derive(Debug)]
struct Group<G, M, T> {
    name: G,
    members: VecDeque<(M, VecDeque<T>)>,
    waiting: usize,
}

impl<G, M, T> Default for FairQueue<G, M, T> {
    fn default() -> Self {
        Self { groups: VecDeque::new(), waiting: 0 }
    }
}

impl<G: Eq, M: Eq, T> FairQueue<G, M, T> {
    /// How much waits, in all.
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// How much of `group` waits.
    pub fn len_of(&self, group: &G) -> usize {
        self.groups.iter().find(|other| other.name == *group).map_or(0, |group| group.waiting)
    }

    /// Adds `item` at the end of what `member` of `group` waits for.
    pub fn push(&mut self, group: G, member: M, item: T) {
        self.waiting += 1;
        let index = self.groups.iter().position(|other| other.name == group).unwrap_or_else(|| {
            self.groups.push_back(Group { name: group, members: VecDeque::new(), waiting: 0 });
            self.groups.len() - 1
        });
        let group = &mut self.groups[index];
        group.waiting += 1;
        match group.members.iter_mut().find(|(other, _)| *other == member) {
            Some((_, items)) => items.push_back(item),
            None => group.members.push_back((member, VecDeque::from([item]))),
        }
    }

    /// Takes the next one. Its group and its member go to the end of their lines.
    pub fn pop(&mut self) -> Option<T> {
        let mut group = self.groups.pop_front()?;
        let (member, mut items) = group.members.pop_front()?;
        let item = items.pop_front()?;
        if !items.is_empty() {
            group.members.push_back((member, items));
        }
        group.waiting -= 1;
        self.waiting -= 1;
        if group.waiting > 0 {
            self.groups.push_back(group);
        }
        Some(item)
    }

    /// Takes back what came last of the group that has most waiting, if that is more than `more_than`.
    pub fn pop_newest_of_largest(&mut self, more_than: usize) -> Option<T> {
        let (index, _) = self.groups.iter().enumerate().max_by_key(|(_, group)| group.waiting)?;
        let group = &mut self.groups[index];
        if group.waiting <= more_than {
            return None;
        }
        let (member, _) = group.members.iter().enumerate().max_by_key(|(_, (_, items))| items.len())?;
        let (_, items) = &mut group.members[member];
        let item = items.pop_back()?;
        if items.is_empty() {
            group.members.remove(member);
        }
        group.waiting -= 1;
        self.waiting -= 1;
        if group.waiting == 0 {
            self.groups.remove(index);
        }
        Some(item)
    }

    /// Keeps only what `keep` says.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        for group in &mut self.groups {
            for (_, items) in &mut group.members {
                items.retain(&mut keep);
            }
            group.members.retain(|(_, items)| !items.is_empty());
            group.waiting = group.members.iter().map(|(_, items)| items.len()).sum();
        }
        self.groups.retain(|group| group.waiting > 0);
        self.waiting = self.groups.iter().map(|group| group.waiting).sum();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn groups_take_turns_and_members_within_them() {
        let mut queue = FairQueue::default();
        for item in ["a1x", "a1y", "a1z", "a2x", "b1x"] {
            queue.push(&item[..1], &item[1..2], item);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, ["a1x", "b1x", "a2x", "a1y", "a1z"]);
        assert!(queue.is_empty());
    }

    #[test]
    fn the_largest_group_gives_way_and_its_newest_first() {
        let mut queue = FairQueue::default();
        for item in ["a1x", "a1y", "b1x"] {
            queue.push(&item[..1], &item[1..2], item);
        }
        assert_eq!(queue.pop_newest_of_largest(2), None, "no group has more than that");
        assert_eq!(queue.pop_newest_of_largest(1), Some("a1y"));
        assert_eq!((queue.len(), queue.len_of(&"a")), (2, 1));
    }

    proptest! {
        /// No group waits for more than one item of each other group, and nothing is lost.
        #[test]
        fn between_two_turns_of_a_group_each_other_has_at_most_one(items in proptest::collection::vec((0_u8..4, 0_u8..3), 1..60)) {
            let mut queue = FairQueue::default();
            for (number, (group, member)) in items.iter().enumerate() {
                queue.push(*group, *member, (*group, *member, number));
            }
            let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
            prop_assert_eq!(order.len(), items.len());
            for group in 0..4 {
                let turns: Vec<_> = (0..order.len()).filter(|index| order[*index].0 == group).collect();
                for pair in turns.windows(2) {
                    for other in (0..4).filter(|other| *other != group) {
                        prop_assert!(order[pair[0]..pair[1]].iter().filter(|item| item.0 == other).count() <= 1);
                    }
                }
                // What one member waits for stays in order.
                for member in 0..3 {
                    let numbers: Vec<_> =
                        order.iter().filter(|item| (item.0, item.1) == (group, member)).map(|item| item.2).collect();
                    prop_assert!(numbers.is_sorted());
                }
            }
        }
    }
}
