//! The words of the wire. Nobody else speaks protobuf.
//!
//! A call comes in through [`observed`] (its span and its duration), [`outer`] (limits, deadline, panics, the log line of a
//! failure) and [`auth`] (who calls), is turned into words of the domain by `read`, answered by [`crate::app`], turned back
//! by `write` or `answer`, or into a status by [`status`]. The hot call takes the [`short_cut`], if it can, and the items of
//! a [`stream`] are written by `items`.

mod answer;
pub mod api_keys;
pub mod auth;
pub mod failure_log;
mod item_body;
mod items;
pub mod observed;
pub mod open_calls;
pub mod outer;
mod question;
mod read;
mod read_fields;
mod request_body;
pub mod screened;
pub mod short_cut;
pub mod status;
pub mod stream;
mod stream_end;
pub mod unsent_answers;
mod write;

/// What `build.rs` made of `proto/claviger/v1`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod proto {
    tonic::include_proto!("claviger.v1");

    /// All descriptors with their comments, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/claviger.v1.descriptors.bin"));
}

/// The name of the one service that needs a key.
pub const SERVICE: &str = "claviger.v1.ApiKeyService";

/// The most bytes of a request.
pub const MAX_REQUEST: usize = 256 * 1024;
