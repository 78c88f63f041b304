//! The file of an embedded database: what it may be, and the lock that keeps a second process away from it.
//!
//! The lock is `flock` on the database file itself, so it holds whatever name leads to the file. It is taken before
//! SQLite opens the file and is released by the kernel when the process ends. No other code of this process may open the
//! file: POSIX releases all of SQLite's own locks when the process closes *any* descriptor of the file.
//!
//! A lock alone is not enough. SQLite finds the write-ahead log by the name of the database, so a file with two names has
//! two logs. Such files are rejected.

use std::{
    fs::{self, File, Metadata, OpenOptions, TryLockError},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statfs, statx};

use crate::data_folder::make_folder;

/// The locks of this process. They are never released before it ends: SQLite closes its descriptors in threads of its
/// own, and another process must not begin before the last of them is closed.
static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// File systems on which locks or shared memory do not work between machines (`statfs(2)`, `linux/magic.h`).
const NETWORK: [(u32, &str); 13] = [
    (0x6969, "NFS"),
    (0x517B, "SMB"),
    (0xFE53_4D42, "SMB"),
    (0xFF53_4D42, "CIFS"),
    (0x0102_1997, "9P"),
    (0x00C3_6400, "Ceph"),
    (0x6573_5546, "FUSE"),
    (0x5346_414F, "AFS"),
    (0x7375_7245, "Coda"),
    (0x0BD0_0BD0, "Lustre"),
    (0x7461_636F, "OCFS2"),
    (0x0116_1970, "GFS2"),
    (0x4750_4653, "GPFS"),
];

/// The lock on an embedded database.
#[derive(Debug)]
pub struct DatabaseLock {
    path: PathBuf,
    device_and_inode: (u64, u64),
}

impl DatabaseLock {
    /// Whether the path still leads to the file that is locked. To be asked after SQLite has opened it.
    ///
    /// # Errors
    /// If it does not.
    pub fn require_same_file(&self) -> Result<(), String> {
        match fs::metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == self.device_and_inode => Ok(()),
            Ok(_) => Err(format!("{} was replaced while it was opened; start again", self.path.display())),
            Err(error) => Err(unusable(&self.path, &error)),
        }
    }
}

/// Takes the lock on the embedded database in `database`. Makes the file, readable by its owner only, if it is not there.
///
/// # Errors
/// If another process holds it, if the file is of a kind that two processes could open without noticing each other, or
/// if the operating system says so.
pub fn lock(database: &Path) -> Result<DatabaseLock, String> {
    if let Some(parent) = database.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_folder(parent)?;
    }
    let failed = |error: io::Error| unusable(database, &error);
    match fs::metadata(database) {
        Ok(found) => require_lone_file(database, &found)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    // SQLite gives its write-ahead log the mode of the database.
    let file = private_file(database).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    let path = fs::canonicalize(database).map_err(failed)?;
    require_lone_file(&path, &found)?;
    require_local(&path)?;
    require_not_mounted(&path)?;
    take(&file, database)?;
    // The versions up to 0.1 lock this file beside it instead; it goes one release later.
    let mut beside = path.clone().into_os_string();
    beside.push(".lock");
    let beside = private_file(Path::new(&beside)).map_err(failed)?;
    take(&beside, database)?;
    HELD.lock().unwrap_or_else(PoisonError::into_inner).extend([file, beside]);
    let lock = DatabaseLock { path, device_and_inode: (found.dev(), found.ino()) };
    lock.require_same_file()?;
    Ok(lock)
}

/// Refuses to begin with an empty database where there was one before. An empty file is not a database. `admin_key` and
/// `root_secrets` are left out where they were made for a first start.
///
/// # Errors
/// What was found, and both ways out.
pub fn require_first_start(
    database: &Path,
    admin_key: Option<&Path>,
    root_secrets: Option<&Path>,
) -> Result<(), String> {
    if fs::metadata(database).is_ok_and(|found| found.len() > 0) {
        return Ok(());
    }
    let target = link_target(database);
    let beside = |suffix: &str| {
        let mut name = target.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let mut signs: Vec<PathBuf> = admin_key
        .map(Path::to_owned)
        .into_iter()
        .chain([beside(".lock"), beside("-wal")])
        .filter(|sign| fs::symlink_metadata(sign).is_ok())
        .collect();
    signs.extend(root_secrets.filter(|folder| holds_files(folder)).map(Path::to_owned));
    if signs.is_empty() {
        return Ok(());
    }
    let signs: Vec<String> = signs.iter().map(|sign| format!("\n  {}", sign.display())).collect();
    Err(format!(
        "there is no database at {}, but an earlier run left:{}\nEither restore the database from a backup. Or, to begin \
         with an empty one, move these away first: keys that were made before will not be valid. (Root secrets that you \
         made for a first start need CLAVIGER_BOOTSTRAP_KEY_FILE, see `claviger bootstrap --help`.)",
        database.display(),
        signs.concat()
    ))
}

/// What a name leads to, although that need not exist yet. The files beside a database are beside its target.
fn link_target(path: &Path) -> PathBuf {
    let folder = path.parent().unwrap_or(Path::new(""));
    fs::canonicalize(path).or_else(|_| fs::read_link(path).map(|target| folder.join(target))).unwrap_or(path.to_owned())
}

/// Whether a folder of root secrets holds one. Names that begin with a dot are left out, as where they are read.
fn holds_files(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."))
}

fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn take(file: &File, database: &Path) -> Result<(), String> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(format!(
            "another claviger is using {}; stop it first, or use PostgreSQL, which several can share",
            database.display()
        )),
        Err(TryLockError::Error(error)) => Err(unusable(database, &error)),
    }
}

/// A regular file with one name.
fn require_lone_file(path: &Path, found: &Metadata) -> Result<(), String> {
    let kind = found.file_type();
    if !kind.is_file() {
        let what = if kind.is_dir() {
            "a folder"
        } else if kind.is_fifo() {
            "a FIFO"
        } else {
            "not a regular file"
        };
        return Err(format!("{} is {what}; name a file (CLAVIGER_DATABASE_URL, CLAVIGER_DATA_DIR)", path.display()));
    }
    if found.nlink() != 1 {
        return Err(format!(
            "{path} has {links} names (hard links), and a second process could open it by another one. Stop everything \
             that uses it, make a copy of its own (`cp {path} {path}.new && mv {path}.new {path}`), and start again",
            path = path.display(),
            links = found.nlink()
        ));
    }
    Ok(())
}

fn require_local(path: &Path) -> Result<(), String> {
    let file_system = statfs(path).map_err(|error| unusable(path, &error.into()))?;
    // The type of the field differs between architectures; the magic numbers have 32 bits.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a magic number has 32 bits")]
    let magic = file_system.f_type as u32;
    match NETWORK.iter().find(|(network, _)| *network == magic) {
        Some((_, name)) => Err(format!(
            "{} is on a network file system ({name}), where two machines could open it at once; put it on a local disk, \
             or use PostgreSQL",
            path.display()
        )),
        None => Ok(()),
    }
}

/// A file that is mounted by itself has a log of its own in each place where it is mounted.
fn require_not_mounted(path: &Path) -> Result<(), String> {
    if is_mount_point(path).map_err(|error| unusable(path, &error))? {
        return Err(format!(
            "{} is mounted by itself, without the files that SQLite keeps beside it; mount its folder instead",
            path.display()
        ));
    }
    Ok(())
}

fn is_mount_point(path: &Path) -> io::Result<bool> {
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS);
    if let Ok(found) = found
        && found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT)
    {
        return Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT));
    }
    // Linux before 5.8.
    if let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") {
        return Ok(names_mount_point(&mounts, path));
    }
    let folder = path.parent().map_or_else(|| fs::metadata("/"), fs::metadata)?;
    Ok(fs::metadata(path)?.dev() != folder.dev())
}

/// Whether the fifth field of a line of `mountinfo` is `path` (proc(5): space, tab, newline, backslash as octal digits).
fn names_mount_point(mounts: &str, path: &Path) -> bool {
    let escaped: Vec<u8> = path
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .flat_map(|byte| match byte {
            b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
            byte => vec![*byte],
        })
        .collect();
    mounts.lines().any(|line| line.split(' ').nth(4).is_some_and(|point| point.as_bytes() == escaped))
}

fn unusable(path: &Path, error: &io::Error) -> String {
    format!("{} cannot be opened: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn said(folder: &Path, outcome: Result<(), String>) -> String {
        outcome.unwrap_err().replace(folder.canonicalize().unwrap().to_str().unwrap(), "FOLDER")
    }

    #[test]
    fn case_44_a_second_lock_on_a_database_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().canonicalize().unwrap().join("claviger.db");
        let first = lock(&database).unwrap();
        insta::assert_snapshot!(said(folder.path(), lock(&database).map(drop)), @"another claviger is using FOLDER/claviger.db; stop it first, or use PostgreSQL, which several can share");
        assert_eq!(fs::metadata(&database).unwrap().permissions().mode() & 0o777, 0o600);
        first.require_same_file().unwrap();
        fs::rename(&database, folder.path().join("elsewhere")).unwrap();
        fs::write(&database, "").unwrap();
        insta::assert_snapshot!(said(folder.path(), first.require_same_file()), @"FOLDER/claviger.db was replaced while it was opened; start again");
    }

    #[test]
    fn a_mount_point_is_found_whatever_its_name() {
        let mounts = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw\n\
                      37 35 98:0 /x /data/my\\040db/claviger.db rw - ext4 /dev/root rw\n";
        assert!(names_mount_point(mounts, Path::new("/mnt2")));
        assert!(names_mount_point(mounts, Path::new("/data/my db/claviger.db")));
        assert!(!names_mount_point(mounts, Path::new("/mnt1")));
        assert!(!names_mount_point(mounts, Path::new("/data/my db")));
        assert!(is_mount_point(Path::new("/proc")).unwrap());
        assert!(!is_mount_point(Path::new("/proc/self/status")).unwrap());
    }

    #[test]
    fn case_69_a_folder_without_its_database_is_not_a_first_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().canonicalize().unwrap().join(name);
        let (database, admin, roots) = (path("claviger.db"), path("admin.key"), path("root-secrets"));
        let check = || require_first_start(&database, Some(&admin), Some(&roots));
        check().unwrap();
        fs::create_dir(&roots).unwrap();
        fs::write(roots.join(".hidden"), "").unwrap();
        check().unwrap();
        for sign in ["admin.key", "claviger.db.lock", "claviger.db-wal", "root-secrets/0"] {
            // An empty file is not a database.
            fs::write(&database, "").unwrap();
            fs::write(path(sign), "").unwrap();
            assert!(check().is_err(), "{sign}");
            fs::write(&database, "SQLite format 3").unwrap();
            check().unwrap();
            fs::remove_file(&database).unwrap();
            assert!(check().is_err(), "{sign}");
            if sign != "root-secrets/0" {
                fs::remove_file(path(sign)).unwrap();
            }
        }
        require_first_start(&database, Some(&admin), None).unwrap();
        fs::write(&admin, "").unwrap();
        insta::assert_snapshot!(said(folder.path(), check()), @"
        there is no database at FOLDER/claviger.db, but an earlier run left:
          FOLDER/admin.key
          FOLDER/root-secrets
        Either restore the database from a backup. Or, to begin with an empty one, move these away first: keys that were made before will not be valid. (Root secrets that you made for a first start need CLAVIGER_BOOTSTRAP_KEY_FILE, see `claviger bootstrap --help`.)
        ");
    }
}
