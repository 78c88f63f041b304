//! Compiles `proto/` in process, without protoc, and writes the descriptor set that reflection serves; nothing else.

use std::{env, error::Error, fs, path::PathBuf};

/// Messages that carry a key string: no `Debug` is derived for them, so that none can be printed by accident.
const SECRET_MESSAGES: [&str; 4] = [
    ".claviger.v1.CreateResponse",
    ".claviger.v1.RotateResponse",
    ".claviger.v1.ValidateRequest",
    ".claviger.v1.ValidateStreamRequest",
];

#[expect(clippy::disallowed_methods, reason = "this is how Cargo tells a build script where to write")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler
        .include_imports(true)
        // Comments, which `grpcurl describe` shows.
        .include_source_info(true)
        .open_files([
            "claviger/v1/api_key.proto",
            "claviger/v1/api_key_service.proto",
            "claviger/v1/error_reason.proto",
        ])?;

    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out_dir.join("claviger.v1.descriptors.bin"), compiler.encode_file_descriptor_set())?;

    tonic_prost_build::configure()
        .btree_map(".")
        .skip_debug(SECRET_MESSAGES)
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
