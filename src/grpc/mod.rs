//! The words of the wire.

/// What `build.rs` made of `proto/claviger/v1`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod proto {
    tonic::include_proto!("claviger.v1");

    /// All descriptors with their comments, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/claviger.v1.descriptors.bin"));
}
