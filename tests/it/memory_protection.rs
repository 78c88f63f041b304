//! The memory of the service is for the service alone.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
    process::Command,
};

use crate::harness::process::{BINARY, Program};

/// A user that is not root, who can read the memory of others under `/proc`.
const NOBODY: u32 = 65_534;

/// How a command line becomes one of a user who is not root.
fn as_somebody(folder: &Path) -> String {
    if fs::metadata(folder).unwrap().uid() != 0 {
        return "exec".to_owned();
    }
    chown(folder, Some(NOBODY), Some(NOBODY)).unwrap();
    format!("exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups --")
}

#[test]
fn case_63_the_process_is_not_dumpable_and_leaves_no_core() {
    let folder = tempfile::tempdir().unwrap();
    // The user may not reach the folder that the binary was built in.
    let binary = folder.path().join("claviger");
    fs::copy(BINARY, &binary).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    let user = as_somebody(folder.path());
    let shell = format!("ulimit -c unlimited; {user} '{}' serve", binary.display());
    let serving = Program::after(folder.path(), &shell).serve();
    let pid = serving.running.pid();

    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core: Vec<&str> =
        limits.lines().find(|line| line.starts_with("Max core file size")).unwrap().split("  ").collect();
    let core: Vec<&str> = core.iter().map(|part| part.trim()).filter(|part| !part.is_empty()).collect();
    assert_eq!(core[..3], ["Max core file size", "0", "0"], "{limits}");

    // The same user reads the memory of any other process of its own.
    let read = |script: &str| Command::new("sh").args(["-c", &format!("{user} sh -c '{script}'")]).output().unwrap();
    let control = read("sleep 60 & cat /proc/$!/maps; kill $!");
    assert!(control.status.success() && !control.stdout.is_empty(), "{control:?}");
    for file in ["maps", "mem", "environ"] {
        let denied = read(&format!("cat /proc/{pid}/{file}"));
        assert!(!denied.status.success() && denied.stdout.is_empty(), "{file}: {denied:?}");
        assert!(String::from_utf8_lossy(&denied.stderr).contains("Permission denied"), "{file}: {denied:?}");
    }
    assert_eq!(serving.stop().code, Some(0));
}
