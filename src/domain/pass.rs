//! What Validate needs of a key, in as few bytes as that takes: what is judged, and what is told with a valid decision.
//!
//! A process holds one for each key that it remembers, a million perhaps, so an [`ApiKey`] with its lists and maps would
//! be too large. The texts stand in one string one after the other, each behind its length.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{
    ApiKey, CredentialId, KeyId, Merchant, State, Time, WebhookFormat,
    api_key::{CredentialState, Retiring, Terms},
    error::Poisoned,
    ip_rules::{CallerIp, IpBlock, IpVerdict, judge},
};

/// See the module. Says the same as the key it was made of.
#[derive(Debug)]
pub struct Pass {
    id: KeyId,
    current: CredentialId,
    rare: Option<Box<Rare>>,
    /// [`NEVER_AFTER`]: no such time.
    expire: i64,
    /// The allowed ones first.
    blocks: Box<[IpBlock]>,
    /// The scopes, which every decision looks at, the id, the merchant, the display name, and the labels, each a key and a
    /// value.
    texts: Box<str>,
    allowed: u8,
    scopes: u8,
    is_deleted: bool,
    is_disabled: bool,
    webhook_format: WebhookFormat,
    noted: Noted,
}

/// What few keys have.
#[derive(Debug, Default, PartialEq)]
struct Rare {
    retiring: Option<Retiring>,
    not_before: Option<Time>,
    /// What cannot be read, if something cannot; then there are neither blocks nor scopes.
    poisoned: Option<Poisoned>,
}

/// A use of the key that was noted: in which second, and the bits of the address.
///
/// The three are written one after the other. Should two uses be noted at once, a third within the same second may be
/// taken for one of them, which tells as much as it would itself.
#[derive(Debug, Default)]
struct Noted {
    /// Since 1970, in as many bits as there are: no two seconds that could be taken for each other are near. Zero: none was.
    second: AtomicU32,
    ip: [AtomicU64; 2],
}

/// Outside the range of [`Time`].
const NEVER_AFTER: i64 = i64::MAX;

impl Pass {
    /// What Validate needs of `key`.
    pub fn of(key: &ApiKey) -> Self {
        let rare = |poisoned| Rare { retiring: key.retiring, not_before: key.not_before_time, poisoned };
        let (terms, rare) = match key.terms.as_ref().map_err(|poisoned| *poisoned).and_then(countable(key.id)) {
            Ok(terms) => (Some(terms), rare(None)),
            Err(poisoned) => (None, rare(Some(poisoned))),
        };
        let mut texts = String::new();
        for scope in terms.iter().flat_map(|counted| &counted.terms.scopes) {
            push(&mut texts, scope.as_str());
        }
        push(&mut texts, &key.id.to_string());
        push(&mut texts, key.merchant.as_str());
        push(&mut texts, &key.display_name);
        for (key, value) in terms.iter().flat_map(|counted| &counted.terms.labels) {
            push(&mut texts, key);
            push(&mut texts, value);
        }
        let blocks = |counted: &Counted<'_>| {
            let rules = &counted.terms.ip_rules;
            rules.allowed.iter().chain(&rules.denied).copied().collect()
        };
        Self {
            id: key.id,
            current: key.current,
            rare: (rare != Rare::default()).then(|| Box::new(rare)),
            expire: key.expire_time.map_or(NEVER_AFTER, Time::micros),
            blocks: terms.as_ref().map(blocks).unwrap_or_default(),
            texts: texts.into_boxed_str(),
            allowed: terms.as_ref().map_or(0, |counted| counted.allowed),
            scopes: terms.as_ref().map_or(0, |counted| counted.scopes),
            is_deleted: key.deletion.is_some(),
            is_disabled: key.disabled,
            webhook_format: terms.map(|counted| counted.terms.webhook_format).unwrap_or_default(),
            noted: Noted::default(),
        }
    }

    /// The key.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The same as callers see it: to spell it costs more than to keep it.
    pub fn id_text(&self) -> &str {
        self.text(0)
    }

    /// What the key is at `now`; as [`ApiKey::state`].
    pub fn state(&self, now: Time) -> State {
        if self.is_deleted {
            State::Deleted
        } else if self.is_disabled {
            State::Disabled
        } else if self.rare.as_deref().and_then(|rare| rare.not_before).is_some_and(|time| now < time) {
            State::NotYetValid
        } else if now.micros() >= self.expire {
            State::Expired
        } else {
            State::Active
        }
    }

    /// How the credential `id` stands at `now`; as [`ApiKey::credential_state`].
    pub fn credential_state(&self, id: CredentialId, now: Time) -> CredentialState {
        let retiring = self.rare.as_deref().and_then(|rare| rare.retiring.as_ref());
        CredentialState::of(id, self.current, retiring, now)
    }

    /// That its terms can be read.
    ///
    /// # Errors
    /// What cannot be.
    pub fn require_readable(&self) -> Result<(), Poisoned> {
        self.rare.as_deref().and_then(|rare| rare.poisoned).map_or(Ok(()), Err)
    }

    /// Whether its address rules let `ip` in.
    pub fn judge_ip(&self, ip: Option<CallerIp>) -> IpVerdict {
        let (allowed, denied) = self.blocks.split_at(usize::from(self.allowed).min(self.blocks.len()));
        judge(allowed, denied, ip)
    }

    /// Whose key it is.
    pub fn merchant(&self) -> &str {
        self.text(1)
    }

    /// Whose key it is, to keep.
    pub fn owner(&self) -> Merchant {
        Merchant::as_stored(self.merchant().to_owned())
    }

    /// Its name for people.
    pub fn display_name(&self) -> &str {
        self.text(2)
    }

    /// The texts after the scopes, for whoever tells all of them: the id, the merchant, the display name, and the labels,
    /// each a key and a value.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        Texts(&self.texts).skip(self.scopes.into())
    }

    fn text(&self, number: usize) -> &str {
        self.texts().nth(number).unwrap_or_default()
    }

    /// All it may do.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        Texts(&self.texts).take(usize::from(self.scopes))
    }

    /// The merchant's notes, each a key and a value, in the order of the keys.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut texts = Texts(&self.texts).skip(usize::from(self.scopes) + 3);
        std::iter::from_fn(move || Some((texts.next()?, texts.next()?)))
    }

    /// How webhooks are written.
    pub fn webhook_format(&self) -> WebhookFormat {
        self.webhook_format
    }

    /// Whether a use of the key at `now` from `ip` is worth noting: the one noted last was in another second or from another
    /// address. Then it counts as noted.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the low bits are what is wanted")]
    pub fn notes_use(&self, now: Time, ip: Option<CallerIp>) -> bool {
        let bits = ip.map_or([u64::MAX; 2], CallerIp::bits);
        let this_second = now.micros().div_euclid(1_000_000) as u32;
        let Noted { second, ip } = &self.noted;
        let is_recent = second.load(Ordering::Relaxed) == this_second
            && ip[0].load(Ordering::Relaxed) == bits[0]
            && ip[1].load(Ordering::Relaxed) == bits[1];
        if !is_recent {
            second.store(this_second, Ordering::Relaxed);
            ip[0].store(bits[0], Ordering::Relaxed);
            ip[1].store(bits[1], Ordering::Relaxed);
        }
        !is_recent
    }

    /// When the key ends.
    pub fn expire_time(&self) -> Option<Time> {
        (self.expire != NEVER_AFTER).then(|| Time::from_micros(self.expire))
    }
}

/// Terms whose lists are within what can be counted here.
struct Counted<'a> {
    terms: &'a Terms,
    allowed: u8,
    scopes: u8,
}

/// Finds longer lists poisoned: they were written past every limit, and by nobody's right.
fn countable<'a>(key_id: KeyId) -> impl Fn(&'a Terms) -> Result<Counted<'a>, Poisoned> {
    move |terms| match (u8::try_from(terms.ip_rules.allowed.len()), u8::try_from(terms.scopes.len())) {
        (Ok(allowed), Ok(scopes)) => Ok(Counted { terms, allowed, scopes }),
        _ => Err(Poisoned { key_id, what: "list of scopes or addresses" }),
    }
}

/// Appends a text behind its length, which is written as one character. No text of a key has more than 1,000 bytes.
fn push(texts: &mut String, text: &str) {
    let length = u32::try_from(text.len()).ok().and_then(char::from_u32);
    texts.push(length.unwrap_or_default());
    texts.push_str(if length.is_some() { text } else { "" });
}

/// Reads them again.
struct Texts<'a>(&'a str);

impl<'a> Iterator for Texts<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let length = self.0.chars().next()?;
        let after = &self.0[length.len_utf8()..];
        let (text, rest) = after.split_at_checked(usize::try_from(u32::from(length)).ok()?)?;
        self.0 = rest;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        DeleteReason,
        api_key::{Deletion, tests::example},
        ip_rules::IpRules,
    };

    fn full() -> ApiKey {
        let blocks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let labels = [("empty", ""), ("shop", "7"), ("ümlaut", &*"ß".repeat(63))];
        let terms = Terms {
            ip_rules: IpRules { allowed: blocks(&["192.0.2.0/24", "2001:db8::/32"]), denied: blocks(&["192.0.2.9"]) },
            scopes: vec!["charge:create".parse().unwrap(), "x".repeat(64).parse().unwrap()],
            webhook_format: WebhookFormat::MultipleJson,
            labels: labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        };
        ApiKey {
            display_name: "💳".repeat(63),
            terms: Ok(terms),
            retiring: Some(Retiring {
                credential_id: CredentialId::from_bytes([9; 16]),
                expire_time: Time::from_micros(30),
            }),
            not_before_time: Some(Time::from_micros(10)),
            expire_time: Some(Time::from_micros(40)),
            ..example()
        }
    }

    #[test]
    fn a_pass_says_what_its_key_says() {
        for key in [full(), example()] {
            let (pass, terms) = (Pass::of(&key), key.terms.clone().unwrap());
            assert_eq!((pass.id(), pass.merchant()), (key.id, key.merchant.as_str()));
            assert_eq!(pass.id_text(), key.id.to_string());
            assert_eq!((pass.display_name(), pass.expire_time()), (key.display_name.as_str(), key.expire_time));
            assert!(pass.scopes().eq(terms.scopes.iter().map(super::super::scope::Scope::as_str)));
            assert!(pass.labels().eq(terms.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()))));
            assert_eq!(pass.webhook_format(), terms.webhook_format);
            for micros in [0, 9, 10, 29, 30, 39, 40, 41] {
                let now = Time::from_micros(micros);
                assert_eq!(pass.state(now), key.state(now));
                for id in [key.current, CredentialId::from_bytes([9; 16]), CredentialId::from_bytes([8; 16])] {
                    assert_eq!(pass.credential_state(id, now), key.credential_state(id, now));
                }
            }
            for ip in ["192.0.2.1", "192.0.2.9", "2001:db8::1", "203.0.113.1"] {
                let ip = Some(ip.parse().unwrap());
                assert_eq!(pass.judge_ip(ip), terms.ip_rules.judge(ip));
            }
            assert_eq!(pass.judge_ip(None), terms.ip_rules.judge(None));
        }
    }

    #[test]
    fn a_key_with_lists_beyond_all_limits_can_not_be_read_and_is_still_its_merchant_s() {
        let scopes = (0..300).map(|number| format!("scope-{number}").parse().unwrap()).collect();
        let key = ApiKey { terms: Ok(Terms { scopes, ..full().terms.unwrap() }), ..full() };
        let pass = Pass::of(&key);
        assert!(pass.require_readable().is_err());
        assert_eq!((pass.id_text(), pass.merchant()), (key.id.to_string().as_str(), key.merchant.as_str()));
        assert_eq!((pass.scopes().count(), pass.labels().count()), (0, 0));
    }

    #[test]
    fn a_use_is_noted_once_a_second_from_each_address_in_turn() {
        let pass = Pass::of(&example());
        let at = |millis: i64| Time::from_micros(1_700_000_000_000_000 + millis * 1_000);
        let [here, there] = ["192.0.2.1", "2001:db8::1"].map(|ip| Some(ip.parse().unwrap()));
        assert!(pass.notes_use(at(0), None));
        assert!(!pass.notes_use(at(999), None));
        assert!(pass.notes_use(at(999), here));
        assert!(pass.notes_use(at(999), there));
        assert!(pass.notes_use(at(999), here), "the last address is the one that was told last");
        assert!(!pass.notes_use(at(999), here));
        assert!(pass.notes_use(at(1_000), here));
        assert!(!pass.notes_use(at(1_999), here));
        assert!(pass.notes_use(at(0), here), "a clock that was set back");
    }

    #[test]
    fn the_first_state_in_the_documented_order_is_told_and_the_ends_of_time_are_kept() {
        let deletion = Deletion { delete_time: Time::MIN, purge_time: Time::MIN, reason: DeleteReason::Unspecified };
        let mut key = ApiKey { deletion: Some(deletion), disabled: true, expire_time: Some(Time::MAX), ..full() };
        assert_eq!(Pass::of(&key).state(Time::MIN), State::Deleted);
        key.deletion = None;
        assert_eq!(Pass::of(&key).state(Time::MIN), State::Disabled);
        key.disabled = false;
        assert_eq!(Pass::of(&key).state(Time::MIN), State::NotYetValid);
        assert_eq!(Pass::of(&key).state(Time::MAX), State::Expired);
        assert_eq!(Pass::of(&key).expire_time(), Some(Time::MAX));
    }
}
