//! What is true: keys, secrets, addresses, rights and decisions.
//!
//! Pure values and functions. Time and randomness come in as arguments; nothing here waits, reads a file or speaks a
//! protocol.

pub mod api_key;
pub mod audit_event;
mod base62;
pub mod caller;
pub mod decision;
pub mod error;
pub mod fields;
mod ids;
pub mod ip_rules;
pub mod key_ring;
pub mod key_string;
pub mod pass;
pub mod request_id;
pub mod root_secret;
pub mod scope;
pub mod sealed;
pub mod secret_hash;
pub mod text;
pub mod time;

pub use api_key::{ApiKey, DeleteReason, State, WebhookFormat};
pub use caller::{Caller, Reach};
pub use error::{Error, Result};
pub use ids::{CredentialId, KeyId, Merchant};
pub use request_id::RequestId;
pub use scope::Scope;
pub use time::Time;
