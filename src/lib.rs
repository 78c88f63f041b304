//! Claviger.
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod data_folder;
pub mod domain;
pub mod grpc;
pub mod launch;
#[path = "../migrations/mod.rs"]
pub mod migrations;
pub mod server;
pub mod store;
pub mod telemetry;
