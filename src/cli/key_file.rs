//! Secrets in files and in the environment: finding the key to call with, reading a key, replacing a key file.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::{
    console::Console,
    exit::{Exit, Failure},
    request_id,
};

/// The most bytes of a key file. Far more than any key string has, and little enough to read without harm.
const MAX_KEY_FILE: usize = 4096;

/// The key to call with, and where it came from.
pub(crate) struct CallerKey {
    /// The key string: visible ASCII characters, at least one.
    pub(crate) key: Zeroizing<String>,
    /// Where it came from.
    pub(crate) source: Source,
}

/// Where the key to call with came from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// The environment variable `CLAVIGER_KEY`.
    Environment,
    /// This file.
    File(PathBuf),
}

/// Finds the key to call with: in the file that the command line names, in the environment, in the default file.
pub(crate) fn find(named: Option<&Path>, console: &mut Console) -> Result<CallerKey, Failure> {
    if let Some(path) = named {
        return from_file(path, console);
    }
    match (console.variable("CLAVIGER_KEY"), console.variable("CLAVIGER_KEY_FILE")) {
        (Some(_), Some(_)) => Err(Failure::new(
            Exit::Usage,
            "both CLAVIGER_KEY and CLAVIGER_KEY_FILE are set; unset one, or name a file with --key-file",
        )),
        (Some(key), None) => {
            // An empty variable is a mistake in a script; going on to the default file would call with other rights
            // than were meant.
            let key = key.to_str().map(|key| Zeroizing::new(key.to_owned()));
            let key = key.ok_or_else(|| unusable("CLAVIGER_KEY", "is not text"))?;
            Ok(CallerKey { key: usable("CLAVIGER_KEY", key)?, source: Source::Environment })
        }
        (None, Some(path)) if path.is_empty() => Err(unusable("CLAVIGER_KEY_FILE", "is set and empty")),
        (None, Some(path)) => from_file(&PathBuf::from(path), console),
        (None, None) => {
            let path = console.default_key_file();
            if path.try_exists().unwrap_or(true) { from_file(&path, console) } else { Err(missing(&path)) }
        }
    }
}

fn missing(default: &Path) -> Failure {
    Failure::new(Exit::NotAllowed, "there is no key to call with")
        .line(format!("looked for: --key-file, CLAVIGER_KEY, CLAVIGER_KEY_FILE, {}", default.display()))
        .line("give one by --key-file FILE or by one of these environment variables; a service on its embedded")
        .line("database writes the first administrator's key to admin.key in its data folder")
}

fn from_file(path: &Path, console: &mut Console) -> Result<CallerKey, Failure> {
    let name = format!("the key file {}", path.display());
    let bytes = read(path, MAX_KEY_FILE, console)
        .map_err(|error| unusable(&name, &format!("cannot be read: {error}")))?
        .ok_or_else(|| {
            unusable(&name, &format!("is longer than {MAX_KEY_FILE} bytes; it has to hold a key string alone"))
        })?;
    let key = text(bytes).ok_or_else(|| unusable(&name, "is not text; it has to hold a key string alone"))?;
    Ok(CallerKey { key: usable(&name, key)?, source: Source::File(path.to_owned()) })
}

/// A header can carry only what passes here; the service is to judge the rest.
fn usable(name: &str, key: Zeroizing<String>) -> Result<Zeroizing<String>, Failure> {
    if key.is_empty() {
        return Err(unusable(name, "is empty; it has to hold a key string"));
    }
    match key.bytes().position(|byte| !byte.is_ascii_graphic()) {
        Some(at) => Err(unusable(
            name,
            &format!("holds a character that no key string has, at byte {}; it has to hold a key string alone", at + 1),
        )),
        None => Ok(key),
    }
}

fn unusable(name: &str, what: &str) -> Failure {
    Failure::new(Exit::NotAllowed, format!("{name} {what}"))
}

/// Reads the secret in the file at `path`, without a line end after it; none if it has more than `most` bytes.
///
/// Warns if everybody may read the file.
pub(crate) fn read(path: &Path, most: usize, console: &mut Console) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let file = File::open(path)?;
    warn_if_shared(path, &file, console);
    // Room for all of it from the start: a buffer that grows leaves copies of the secret behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(most + 1));
    file.take(u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= most).then(|| without_line_end(bytes)))
}

/// `bytes` without one trailing line end; nothing else is removed.
pub(crate) fn without_line_end(mut bytes: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    let kept = bytes.strip_suffix(b"\r\n").or_else(|| bytes.strip_suffix(b"\n")).unwrap_or(&bytes).len();
    bytes.truncate(kept);
    bytes
}

/// `bytes` as text, without a copy staying behind.
pub(crate) fn text(mut bytes: Zeroizing<Vec<u8>>) -> Option<Zeroizing<String>> {
    String::from_utf8(std::mem::take(&mut *bytes)).map(Zeroizing::new).ok()
}

#[cfg(unix)]
fn warn_if_shared(path: &Path, file: &File, console: &mut Console) {
    use std::os::unix::fs::PermissionsExt;

    let Ok(metadata) = file.metadata() else { return };
    let mode = metadata.permissions().mode() & 0o777;
    // As the service does for its own secrets, this allows the group: Kubernetes mounts Secrets so.
    if metadata.is_file() && mode & 0o004 != 0 {
        let path = path.display().to_string();
        let path = super::escape::escaped(&path);
        console.tell(format!("warning: other users can read {path} (mode {mode:03o}); run: chmod 600 {path}"));
    }
}

#[cfg(not(unix))]
fn warn_if_shared(_: &Path, _: &File, _: &mut Console) {}

/// Puts `key` into the file at `path` in one step: whoever opens it finds the old key or the new one, even after a
/// power failure.
///
/// The new file can be read by its owner only, who is the same as before. Where `path` is a symbolic link, what it points to is replaced.
pub(crate) fn replace(path: &Path, key: &str) -> io::Result<()> {
    let path = fs::canonicalize(path)?;
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it has no folder"));
    };
    let beside = beside(folder, name)?;
    let written = write_new(&beside, key, &fs::metadata(&path)?).and_then(|()| fs::rename(&beside, &path));
    if written.is_err() {
        // What was written is a secret; the error to tell is the first one.
        let _ = fs::remove_file(&beside);
    }
    written?;
    sync_folder(folder)
}

fn beside(folder: &Path, name: &OsStr) -> io::Result<PathBuf> {
    let mut hidden = OsStr::new(".").to_owned();
    hidden.push(name);
    hidden.push(format!(".{}.new", request_id::random().map_err(io::Error::other)?));
    Ok(folder.join(hidden))
}

fn write_new(path: &Path, key: &str, like: &fs::Metadata) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    keep_owner(&file, like)?;
    file.write_all(key.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

/// When root rotates the key of a service, the service has to be able to read it still.
#[cfg(unix)]
fn keep_owner(file: &File, like: &fs::Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, fchown};

    let new = file.metadata()?;
    if (new.uid(), new.gid()) == (like.uid(), like.gid()) {
        return Ok(());
    }
    match fchown(file, Some(like.uid()), Some(like.gid())) {
        // Only root can give files away; whoever else could read the old key is the owner of the new one.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        end => end,
    }
}

#[cfg(not(unix))]
fn keep_owner(_: &File, _: &fs::Metadata) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}
