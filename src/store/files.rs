//! Whether the files of an embedded database are still the ones that were opened. By `stat` alone: to open them would cost
//! SQLite its locks.
//!
//! SQLite itself does not notice that a file was removed or replaced, and goes on with one that has no name any more: what
//! it commits then is lost.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{Address, Store};

/// What the operating system says of a file: device, inode, and number of names.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    names: u64,
}

/// The files of an embedded database, as they were at one moment.
pub(super) struct DatabaseFiles(Vec<(PathBuf, Identity)>);

impl Store {
    /// Whether the database, its write-ahead log and its shared memory are still the files that they were when this was
    /// called first. The database itself has to be the one that was opened.
    ///
    /// # Errors
    /// If one of them is missing, was replaced, or has another name; with the reason.
    pub fn require_same_files(&self) -> Result<(), String> {
        let Address::Sqlite(path) = &self.address else { return Ok(()) };
        if let Some(files) = self.files.get() {
            return files.require_unchanged();
        }
        let files = DatabaseFiles::of(path, self.opened)?;
        files.require_unchanged()?;
        // Another caller may have been first, with the same files.
        let _ = self.files.set(files);
        Ok(())
    }
}

impl DatabaseFiles {
    fn of(path: &Path, opened: Option<Identity>) -> Result<Self, String> {
        // The name that was given may be a link. SQLite keeps the other files beside its target.
        let target = fs::canonicalize(path).map_err(|error| missing(path, &error))?;
        let beside = |suffix: &str| {
            let mut name = target.clone().into_os_string();
            name.push(suffix);
            PathBuf::from(name)
        };
        let mut files = Vec::new();
        for path in [path.to_owned(), beside("-wal"), beside("-shm")] {
            let identity = Identity::of(&path).map_err(|error| missing(&path, &error))?;
            files.push((path, Identity { names: 1, ..identity }));
        }
        if let (Some(opened), Some((_, database))) = (opened, files.first_mut()) {
            *database = Identity { names: 1, ..opened };
        }
        Ok(Self(files))
    }

    fn require_unchanged(&self) -> Result<(), String> {
        for (path, before) in &self.0 {
            let now = Identity::of(path).map_err(|error| missing(path, &error))?;
            if (now.device, now.inode) != (before.device, before.inode) {
                return Err(format!("{} was replaced by another file", path.display()));
            }
            if now.names != before.names {
                return Err(format!("{} has {} names (hard links) in place of one", path.display(), now.names));
            }
        }
        Ok(())
    }
}

impl Identity {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|found| Self { device: found.dev(), inode: found.ino(), names: found.nlink() })
    }
}

fn missing(path: &Path, error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::NotFound {
        format!("{} was removed", path.display())
    } else {
        format!("{} cannot be looked at: {error}", path.display())
    }
}
