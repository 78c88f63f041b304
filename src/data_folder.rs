//! The files of a deployment beside its database: root secrets and the administrator's key.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use crate::domain::root_secret::{Key, RootId, RootSecret};

/// The name of the root secret that a first start makes.
pub const FIRST_ROOT: &str = "0";

/// Makes a folder that only its owner can look into, and those above it, unless they are there.
///
/// # Errors
/// What the operating system says, with the path.
pub fn make_folder(path: &Path) -> Result<(), String> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| format!("the folder {} cannot be made: {error}", path.display()))
}

fn new_private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Reads all root secrets in `folder`. Files whose names begin with a dot are left out.
///
/// # Errors
/// All that is wrong with any of them, with their paths.
pub fn read_root_secrets(folder: &Path) -> Result<Vec<RootSecret>, String> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("the folder {} cannot be read: {error}", folder.display())),
    };
    let (mut roots, mut problems) = (Vec::new(), Vec::new());
    for entry in entries {
        let entry = entry.map_err(|error| format!("the folder {} cannot be read: {error}", folder.display()))?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        match read_root_secret(&entry.path(), name.to_str()) {
            Ok(root) => roots.push(root),
            Err(what) => problems.push(format!("{} {what}", entry.path().display())),
        }
    }
    problems.sort_unstable();
    if problems.is_empty() { Ok(roots) } else { Err(problems.join("\n  ")) }
}

fn read_root_secret(path: &Path, name: Option<&str>) -> Result<RootSecret, String> {
    let mut characters = name.unwrap_or_default().chars();
    let id = characters.next().and_then(RootId::new).filter(|_| characters.next().is_none());
    let id = id.ok_or("is not named by one character of 0-9A-Za-z, as a root secret has to be")?;
    let text = read_secret_file(path)?;
    RootSecret::parse(id, &text)
}

/// Reads a file with a secret, which others must not be able to read. Its group may: Kubernetes mounts it so.
///
/// # Errors
/// What is wrong, to be put behind the path.
pub fn read_secret_file(path: &Path) -> Result<Zeroizing<String>, String> {
    let told = |error: io::Error| format!("cannot be read: {error}");
    let mode = fs::metadata(path).map_err(told)?.permissions().mode();
    if mode & 0o007 != 0 {
        return Err(format!(
            "can be read by everybody (mode {:03o}); take that away with `chmod o= FILE`",
            mode & 0o777
        ));
    }
    fs::read_to_string(path).map(Zeroizing::new).map_err(told)
}

/// Makes the first root secret of an embedded database from random `bytes`.
///
/// # Errors
/// What the operating system says, with the path.
pub fn make_root_secret(folder: &Path, bytes: &Key) -> Result<PathBuf, String> {
    make_folder(folder)?;
    let path = folder.join(FIRST_ROOT);
    let mut text = Zeroizing::new(String::with_capacity(65));
    for byte in bytes.iter() {
        let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
        text.push(digit(byte >> 4));
        text.push(digit(byte & 0xF));
    }
    text.push('\n');
    let write = || -> io::Result<()> {
        let mut file = new_private_file(&path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
    Ok(path)
}

/// Puts a key string into a new file that only its owner can read: written beside, synced, and then given its name. A file
/// that is there already is never overwritten, and the name never leads to half a key string.
///
/// # Errors
/// What the operating system says, with the path; that the file is there already.
pub fn write_new_key_file(path: &Path, key: &str) -> Result<(), String> {
    let write = || -> io::Result<()> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = new_private_file(&beside)?;
        file.write_all(key.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        // Unlike a rename, a link fails if the name is taken.
        fs::hard_link(&beside, path)?;
        fs::remove_file(&beside)?;
        match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(folder) => File::open(folder)?.sync_all(),
            None => File::open(".")?.sync_all(),
        }
    };
    write().map_err(|error| format!("{} cannot be written: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn secrets_are_for_their_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let roots = folder.path().join("root-secrets");
        let root = make_root_secret(&roots, &Key::new([0xA7; 32])).unwrap();
        assert_eq!((mode(&roots), mode(&root)), (0o700, 0o600));
        let key = folder.path().join("admin.key");
        // What a start that was cut off left.
        fs::write(folder.path().join("admin.key.new"), "half").unwrap();
        write_new_key_file(&key, "first").unwrap();
        assert_eq!((mode(&key), fs::read_to_string(&key).unwrap().as_str()), (0o600, "first\n"));
        assert!(write_new_key_file(&key, "second").is_err());
        assert_eq!(fs::read_to_string(&key).unwrap(), "first\n");
    }

    #[test]
    fn a_root_secret_is_never_written_over() {
        let folder = tempfile::tempdir().unwrap();
        make_root_secret(folder.path(), &Key::new([1; 32])).unwrap();
        assert!(make_root_secret(folder.path(), &Key::new([2; 32])).is_err());
    }

    #[test]
    fn case_41_all_that_is_wrong_with_root_secrets_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str, mode: u32| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let good = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n";
        write(".hidden", "", 0o600);
        write("0", good, 0o640);
        assert_eq!(read_root_secrets(folder.path()).map_err(drop).unwrap().len(), 1);
        write("1", good, 0o644);
        write("2", "short", 0o600);
        write("backup", good, 0o600);
        let told = read_root_secrets(folder.path()).err().unwrap();
        insta::assert_snapshot!(told.replace(folder.path().to_str().unwrap(), "FOLDER"), @"
        FOLDER/1 can be read by everybody (mode 644); take that away with `chmod o= FILE`
          FOLDER/2 has 5 characters; a root secret is 64 hexadecimal digits
          FOLDER/backup is not named by one character of 0-9A-Za-z, as a root secret has to be
        ");
    }
}
