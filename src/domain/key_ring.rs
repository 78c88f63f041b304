//! Which root secrets this process holds, and what the deployment says of each.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    error::{Error, Result, Unavailable},
    root_secret::{RootId, RootSecret, RootState},
};

/// What the database says of every root secret that was ever activated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootStates(BTreeMap<RootId, Record>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    state: RootState,
    /// None: not compared with the secret that is mounted.
    fingerprint: Option<[u8; 16]>,
}

impl RootStates {
    /// Adds what the database says of the root secret `id`.
    pub fn insert(&mut self, id: RootId, state: RootState, fingerprint: [u8; 16]) {
        self.0.insert(id, Record { state, fingerprint: Some(fingerprint) });
    }

    /// The state of the root secret `id`; none if it was never activated.
    pub fn state(&self, id: RootId) -> Option<RootState> {
        self.0.get(&id).map(|record| record.state)
    }
}

/// States without fingerprints.
impl<const N: usize> From<[(RootId, RootState); N]> for RootStates {
    fn from(states: [(RootId, RootState); N]) -> Self {
        Self(states.into_iter().map(|(id, state)| (id, Record { state, fingerprint: None })).collect())
    }
}

/// The root secrets that are mounted here, and the state of each that the deployment knows.
#[derive(Clone)]
pub struct KeyRing {
    mounted: Arc<BTreeMap<RootId, RootSecret>>,
    states: RootStates,
}

/// What a key ring holds under a name.
pub enum Found<'a> {
    /// It is in use and mounted.
    Mounted(&'a RootSecret),
    /// It is in use, but not mounted here.
    NotMounted,
    /// It was removed. That is final.
    Removed,
    /// The deployment does not know it, or this process does not know yet that the deployment does.
    Unknown,
}

impl KeyRing {
    /// Puts the ring together.
    pub fn new(mounted: Vec<RootSecret>, states: RootStates) -> Self {
        Self { mounted: Arc::new(mounted.into_iter().map(|root| (root.id(), root)).collect()), states }
    }

    /// The same mounted root secrets with what the database says of them now.
    #[must_use]
    pub fn with_states(&self, states: RootStates) -> Self {
        Self { mounted: Arc::clone(&self.mounted), states }
    }

    /// What the database said of them.
    pub fn states(&self) -> &RootStates {
        &self.states
    }

    /// The root secret named `id`.
    pub fn find(&self, id: RootId) -> Found<'_> {
        match self.states.0.get(&id) {
            None => Found::Unknown,
            Some(Record { state: RootState::Removed, .. }) => Found::Removed,
            Some(record) => self.mounted(id, record).map_or(Found::NotMounted, Found::Mounted),
        }
    }

    /// The ones that are in use and not mounted here, in the order of their names.
    pub fn missing(&self) -> Vec<RootId> {
        let in_use = self.states.0.iter().filter(|(_, record)| record.state != RootState::Removed);
        in_use.filter(|(id, record)| self.mounted(**id, record).is_none()).map(|(id, _)| *id).collect()
    }

    /// The one that new secrets are made under.
    ///
    /// # Errors
    /// `Unavailable` if it is not mounted here, or if there is not exactly one.
    pub fn active(&self) -> Result<&RootSecret> {
        let mut active = self.states.0.iter().filter(|(_, record)| record.state == RootState::Active);
        let (Some((id, record)), None) = (active.next(), active.next()) else {
            return Err(Error::Unavailable(Unavailable::NoActiveRootSecret));
        };
        self.mounted(*id, record).ok_or(Error::Unavailable(Unavailable::RootSecret(id.as_char())))
    }

    /// A file of this name with another content is not the root secret that the database means.
    fn mounted(&self, id: RootId, record: &Record) -> Option<&RootSecret> {
        let root = self.mounted.get(&id)?;
        record.fingerprint.is_none_or(|fingerprint| fingerprint == *root.fingerprint()).then_some(root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: char) -> RootId {
        RootId::new(name).unwrap()
    }

    fn root(name: char, byte: u8) -> RootSecret {
        RootSecret::derive(id(name), &[byte; 32])
    }

    #[test]
    fn a_ring_distinguishes_unknown_removed_and_not_mounted() {
        let states = [('a', RootState::Active), ('b', RootState::Accepted), ('c', RootState::Removed)];
        let states = states.map(|(c, state)| (id(c), state)).into();
        let ring = KeyRing::new(vec![root('a', 1), root('c', 3), root('d', 4)], states);
        assert!(matches!(ring.find(id('a')), Found::Mounted(_)));
        assert!(matches!(ring.find(id('b')), Found::NotMounted));
        assert!(matches!(ring.find(id('c')), Found::Removed));
        assert!(matches!(ring.find(id('d')), Found::Unknown));
        assert_eq!(ring.active().unwrap().id(), id('a'));
        assert_eq!(ring.missing(), [id('b')]);
    }

    #[test]
    fn a_ring_follows_the_deployment_although_the_active_one_is_not_mounted() {
        let ring = KeyRing::new(vec![root('a', 1)], [(id('a'), RootState::Active)].into());
        let ring = ring.with_states([(id('a'), RootState::Accepted), (id('b'), RootState::Active)].into());
        assert!(matches!(ring.find(id('a')), Found::Mounted(_)));
        assert!(matches!(ring.find(id('b')), Found::NotMounted));
        assert!(ring.active().is_err());
        let two = [(id('a'), RootState::Active), (id('b'), RootState::Active)];
        assert!(ring.with_states(two.into()).active().is_err());
        assert!(ring.with_states([(id('a'), RootState::Accepted)].into()).active().is_err());
    }

    #[test]
    fn a_file_with_another_content_is_not_the_root_secret_of_that_name() {
        let (mine, other) = (root('a', 1), root('a', 2));
        let mut states = RootStates::default();
        states.insert(id('a'), RootState::Active, *other.fingerprint());
        let ring = KeyRing::new(vec![mine], states);
        assert!(matches!(ring.find(id('a')), Found::NotMounted));
        assert!(ring.active().is_err());
    }
}
