//! Keeps the memory of the process, which holds root secrets and key strings, out of core dumps and away from other
//! processes of the same user.

use rustix::{
    io,
    process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit},
};

/// Makes the process not dumpable and sets its limit for core files to 0. To be called before any secret is read.
///
/// Not dumpable means that the kernel writes no core file, and that another process of the same user can neither attach to
/// this one nor read its memory under `/proc`. The limit also covers a core dump that is piped to a program.
///
/// # Errors
/// What the kernel says.
pub fn protect() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}
