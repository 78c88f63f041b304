//! Page tokens: a position, sealed, and bound to the query and the caller.

use std::fmt::Write;

use rand::rngs::SysRng;

use super::{App, ListQuery, request_ids::Meaning};
use crate::{
    domain::{Caller, Error, KeyId, Result, Time, key_ring::Found, root_secret::RootId, sealed},
    store::Position,
};

const FIELD: &str = "page_token";

impl App {
    pub(super) fn page_token_seal(&self, caller: &Caller, query: &ListQuery, position: Position) -> Result<String> {
        let ring = self.ring();
        let root = ring.active()?;
        let mut plain = position.create_time.micros().to_be_bytes().to_vec();
        plain.extend_from_slice(position.id.as_bytes());
        let sealed = sealed::seal(root.page_token_key(), &context(caller, query), &plain, &mut SysRng);
        let mut token = root.id().to_string();
        for byte in sealed.map_err(Error::fault)? {
            // Writing to a string cannot fail.
            write!(token, "{byte:02x}").map_err(Error::fault)?;
        }
        Ok(token)
    }

    pub(super) fn page_token_open(&self, caller: &Caller, query: &ListQuery, token: &str) -> Result<Position> {
        let ring = self.ring();
        let open = || {
            let (root, hex) = token.split_at_checked(1)?;
            let Found::Mounted(root) = ring.find(RootId::new(root.chars().next()?)?) else { return None };
            let plain = sealed::open(root.page_token_key(), &context(caller, query), &bytes(hex)?)?;
            let (time, id) = plain.split_first_chunk::<8>()?;
            Some(Position {
                create_time: Time::from_micros(i64::from_be_bytes(*time)),
                id: KeyId::from_bytes(id.try_into().ok()?),
            })
        };
        open().ok_or_else(|| {
            Error::field(
                FIELD,
                "does not belong to this query and caller; repeat the query that it was given for, or leave it empty to \
                 begin anew",
            )
        })
    }
}

/// The bytes that lower-case hexadecimal digits stand for. A token has one spelling.
fn bytes(hex: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    let digit =
        |b: u8| char::from(b).to_digit(16).filter(|_| !b.is_ascii_uppercase()).and_then(|d| u8::try_from(d).ok());
    let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

/// The caller and everything about the query but the size of its pages.
fn context(caller: &Caller, query: &ListQuery) -> [u8; 32] {
    Meaning::of("List")
        .with(caller.key_id().as_bytes())
        .with(query.merchant.as_ref().map_or("", |merchant| merchant.as_str()))
        .with_set(query.filter.states.iter().map(|state| format!("{state:?}")))
        .with([u8::from(query.filter.show_deleted)])
        .fingerprint()
}
