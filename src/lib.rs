//! Claviger.
pub mod app;
pub mod clock;
pub mod config;
pub mod domain;
pub mod grpc;
#[path = "../migrations/mod.rs"]
pub mod migrations;
pub mod store;
