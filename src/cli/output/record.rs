//! An answer as a list of named values: what the listing, the JSON and the single field have in common.

use std::{collections::BTreeMap, fmt};

use prost_types::Timestamp;
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::domain::Time;

/// Fields by the names they have in the proto files, in their order.
pub(crate) struct Record(pub(super) Vec<(&'static str, Value)>);

/// The value of a field.
pub(crate) enum Value {
    Text(String),
    List(Vec<String>),
    Map(BTreeMap<String, String>),
    Flag(bool),
    Moment(Option<Timestamp>),
    Choice(Choice),
    Message(Option<Record>),
}

/// A value of an enum.
pub(crate) enum Choice {
    /// Never set by the service; as good as absent.
    Unspecified,
    /// By its name in the proto files, and the same without the name of its enum.
    Known { name: &'static str, short: &'static str },
    /// A value of a later version.
    Unknown(i32),
}

impl Record {
    /// The value of the field `name`, of the answer itself or of a message in it.
    pub(crate) fn find(&self, name: &str) -> Option<&Value> {
        let own = self.0.iter().find(|(own, value)| *own == name && !matches!(value, Value::Message(_)));
        own.map(|(_, value)| value).or_else(|| self.messages().find_map(|message| message.find(name)))
    }

    /// The names that [`Self::find`] knows.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        for (name, value) in &self.0 {
            match value {
                Value::Message(message) => names.extend(message.iter().flat_map(Self::names)),
                _ => names.push(*name),
            }
        }
        // What a message repeats of the answer around it is found in the answer.
        let mut seen = Vec::new();
        names.retain(|name| {
            !seen.contains(name) && {
                seen.push(*name);
                true
            }
        });
        names
    }

    /// What a person is to read: messages unfolded, absent fields left out, but for those whose absence says something.
    pub(crate) fn lines(&self) -> Vec<(&'static str, String)> {
        let names = self.names();
        let text = |name: &'static str| match (name, self.find(name)?) {
            ("allowed_ips", Value::List(blocks)) if blocks.is_empty() => Some((name, "any".to_owned())),
            ("expire_time", Value::Moment(None)) => Some((name, "never".to_owned())),
            (_, value) => Some((name, value.text()?)),
        };
        names.into_iter().filter_map(text).collect()
    }

    fn messages(&self) -> impl Iterator<Item = &Record> {
        self.0.iter().filter_map(|(_, value)| match value {
            Value::Message(message) => message.as_ref(),
            _ => None,
        })
    }
}

impl Value {
    /// The value in words; none if it is absent or empty.
    pub(crate) fn text(&self) -> Option<String> {
        if self.is_absent() {
            return None;
        }
        match self {
            Self::Text(text) => Some(text.clone()),
            Self::List(items) => Some(items.join(", ")),
            Self::Map(map) => Some(map.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(", ")),
            Self::Flag(flag) => Some(flag.to_string()),
            Self::Moment(moment) => moment.as_ref().map(rfc3339),
            Self::Choice(choice) => Some(choice.to_string()),
            Self::Message(_) => None,
        }
    }

    /// Whether proto JSON leaves the field out. It may leave out `false`, too, but `false` is an answer.
    fn is_absent(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::List(items) => items.is_empty(),
            Self::Map(map) => map.is_empty(),
            Self::Flag(_) => false,
            Self::Moment(moment) => moment.is_none(),
            Self::Choice(choice) => matches!(choice, Choice::Unspecified),
            Self::Message(message) => message.is_none(),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unspecified => f.write_str("UNSPECIFIED"),
            Self::Known { short, .. } => f.write_str(short),
            Self::Unknown(number) => write!(f, "{number}"),
        }
    }
}

/// `moment` as RFC 3339 writes it, in UTC.
pub(crate) fn rfc3339(moment: &Timestamp) -> String {
    match Time::from_timestamp(moment.seconds, moment.nanos) {
        Some(_) => moment.to_string(),
        None => format!("{} s and {} ns after 1970, which is out of range", moment.seconds, moment.nanos),
    }
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in self.0.iter().filter(|(_, value)| !value.is_absent()) {
            map.serialize_entry(&camel_case(name), value)?;
        }
        map.end()
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(items) => items.serialize(serializer),
            Self::Map(map) => map.serialize(serializer),
            Self::Flag(flag) => serializer.serialize_bool(*flag),
            Self::Moment(moment) => moment.as_ref().map(rfc3339).serialize(serializer),
            Self::Choice(Choice::Known { name, .. }) => serializer.serialize_str(name),
            Self::Choice(Choice::Unknown(number)) => serializer.serialize_i32(*number),
            Self::Choice(Choice::Unspecified) => serializer.serialize_i32(0),
            Self::Message(message) => message.serialize(serializer),
        }
    }
}

/// `create_time` as proto JSON names it: `createTime`.
fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let mut out = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut characters = word.chars();
        out.extend(characters.next().map(|first| first.to_ascii_uppercase()));
        out.push_str(characters.as_str());
    }
    out
}
