//! One serving process for each file of an embedded database, whatever names lead to it; a file that is removed or
//! replaced is noticed; and what an earlier run left is not taken for a first start.

use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use claviger::grpc::proto;
use insta::assert_snapshot;
use sea_orm::{ConnectOptions, ConnectionTrait, Database};

use crate::harness::process::{Ended, Program, Serving, admin_key, write};

/// A folder in which a service ran and was stopped.
fn used_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(Program::new(folder.path()).serve().stop().code, Some(0));
    folder
}

fn data(folder: &Path, name: &str) -> PathBuf {
    folder.join("data").join(name)
}

fn sh(script: &str, paths: &[&Path]) {
    assert!(Command::new("sh").args(["-ec", script, "sh"]).args(paths).status().unwrap().success());
}

async fn answers(serving: &Serving, key: &str) -> usize {
    serving.client(key).list(proto::ListRequest::default()).await.unwrap().into_inner().api_keys.len()
}

fn refused(program: Program) -> Ended {
    let ended = program.begin().ended();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(6), ""));
    ended
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_62_a_symbolic_link_leads_to_the_same_lock() {
    let (folder, beside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let serving = Program::new(folder.path()).serve();
    let admin = admin_key(folder.path());
    let link = beside.path().join("link.db");
    symlink(data(folder.path(), "claviger.db"), &link).unwrap();
    let by_the_link = || Program::new(folder.path()).set("CLAVIGER_DATABASE_URL", format!("sqlite:{}", link.display()));
    let told = refused(by_the_link()).told().replace(beside.path().to_str().unwrap(), "BESIDE");
    assert_snapshot!(told, @"ERROR claviger::cli::serve: another claviger is using BESIDE/link.db; stop it first, or use PostgreSQL, which several can share");
    assert_eq!(answers(&serving, &admin).await, 1);
    serving.stop();
    // Alone it may: the database, its log and its lock are beside each other all the same.
    let serving = by_the_link().serve();
    assert_eq!(answers(&serving, &admin).await, 1);
    refused(Program::new(folder.path()));
    assert_eq!(serving.stop().code, Some(0));
}

#[test]
fn case_62_a_file_with_hard_links_is_refused() {
    let folder = used_folder();
    sh("ln \"$1\" \"$2\"", &[&data(folder.path(), "claviger.db"), &folder.path().join("other.db")]);
    assert_snapshot!(refused(Program::new(folder.path())).told(), @"ERROR claviger::cli::serve: FOLDER/data/claviger.db has 2 names (hard links), and a second process could open it by another one. Stop everything that uses it, make a copy of its own (`cp FOLDER/data/claviger.db FOLDER/data/claviger.db.new && mv FOLDER/data/claviger.db.new FOLDER/data/claviger.db`), and start again");
    let other = format!("sqlite:{}", folder.path().join("other.db").display());
    refused(Program::new(folder.path()).set("CLAVIGER_DATABASE_URL", other));
    // What the message says helps.
    let database = data(folder.path(), "claviger.db");
    sh("cp \"$1\" \"$1.new\" && mv \"$1.new\" \"$1\"", &[&database]);
    assert_eq!(Program::new(folder.path()).serve().stop().code, Some(0));
}

#[test]
fn case_62_a_copy_of_a_folder_with_hard_links_is_refused() {
    let (folder, copy) = (used_folder(), tempfile::tempdir().unwrap());
    sh("cp -al \"$1/data\" \"$2/data\"", &[folder.path(), copy.path()]);
    for folder in [&folder, &copy] {
        assert!(refused(Program::new(folder.path())).stderr.contains("has 2 names (hard links)"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_62_a_bind_mount_of_the_folder_leads_to_the_same_lock() {
    let (folder, beside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let serving = Program::new(folder.path()).serve();
    let mount = format!("mount --bind '{}' '{}'", folder.path().display(), beside.path().display());
    let Some(second) = Program::among_mounts(beside.path(), &mount) else { return };
    // The working folder is that from before the mount.
    let second = second.set("CLAVIGER_DATA_DIR", data(beside.path(), "").to_str().unwrap());
    assert!(refused(second).stderr.contains("another claviger is using"));
    assert_eq!(answers(&serving, &admin_key(folder.path())).await, 1);
}

#[test]
fn case_62_a_file_that_is_mounted_by_itself_is_refused() {
    let (folder, beside) = (used_folder(), used_folder());
    let (here, there) = (data(folder.path(), "claviger.db"), data(beside.path(), "claviger.db"));
    let mount = format!("mount --bind '{}' '{}'", here.display(), there.display());
    let Some(second) = Program::among_mounts(beside.path(), &mount) else { return };
    assert_snapshot!(refused(second).told(), @"ERROR claviger::cli::serve: FOLDER/data/claviger.db is mounted by itself, without the files that SQLite keeps beside it; mount its folder instead");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_62_the_lock_does_not_depend_on_the_lock_file() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Program::new(folder.path()).serve();
    fs::remove_file(data(folder.path(), "claviger.db.lock")).unwrap();
    assert!(refused(Program::new(folder.path())).stderr.contains("another claviger is using"));
    assert_eq!(answers(&serving, &admin_key(folder.path())).await, 1);
    assert_eq!(serving.stop().code, Some(0));
}

#[test]
fn case_62_a_database_that_is_not_a_regular_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("data")).unwrap();
    sh("mkfifo \"$1\"", &[&data(folder.path(), "claviger.db")]);
    assert_snapshot!(refused(Program::new(folder.path())).told(), @"ERROR claviger::cli::serve: FOLDER/data/claviger.db is a FIFO; name a file (CLAVIGER_DATABASE_URL, CLAVIGER_DATA_DIR)");
}

#[test]
fn case_69_a_file_that_is_removed_or_replaced_under_the_service_ends_it() {
    let steps = [
        ("the database removed", "rm claviger.db", "claviger.db was removed"),
        ("its folder moved", "cd .. && mv data elsewhere", "claviger.db was removed"),
        (
            "the database restored",
            "cp claviger.db new && mv new claviger.db",
            "claviger.db was replaced by another file",
        ),
        ("another name made", "ln claviger.db other.db", "claviger.db has 2 names (hard links) in place of one"),
        // A connection that is opened meanwhile makes another one.
        ("the log removed", "rm claviger.db-wal", "claviger.db-wal was "),
        ("the log replaced", "rm claviger.db-wal; touch claviger.db-wal", "claviger.db-wal was "),
        ("the shared memory removed", "rm claviger.db-shm", "claviger.db-shm was "),
    ];
    for (what, script, reason) in steps {
        let folder = tempfile::tempdir().unwrap();
        let serving = Program::new(folder.path()).serve();
        sh(&format!("cd \"$1\"; {script}"), &[&data(folder.path(), "")]);
        let ended = serving.running.ended();
        assert_eq!(ended.code, Some(6), "{what}: {}", ended.stderr);
        let last = ended.told().lines().last().unwrap().to_owned();
        let expected = "ERROR claviger::cli::serve: the database file changed under the running service: FOLDER/data/";
        assert!(last.starts_with(expected) && last.contains(reason), "{what}: {last}");
    }
}

#[test]
fn case_69_a_folder_whose_database_is_gone_is_not_a_first_start() {
    let folder = used_folder();
    let kept = fs::read(data(folder.path(), "admin.key")).unwrap();
    fs::remove_file(data(folder.path(), "claviger.db")).unwrap();
    assert_snapshot!(refused(Program::new(folder.path())).told(), @"
    ERROR claviger::cli::serve: there is no database at FOLDER/data/claviger.db, but an earlier run left:
      FOLDER/data/admin.key
      FOLDER/data/claviger.db.lock
      FOLDER/data/root-secrets
    Either restore the database from a backup. Or, to begin with an empty one, move these away first: keys that were made before will not be valid. (Root secrets that you made for a first start need CLAVIGER_BOOTSTRAP_KEY_FILE, see `claviger bootstrap --help`.)
    ");
    assert!(!data(folder.path(), "claviger.db").exists());
    assert_eq!(fs::read(data(folder.path(), "admin.key")).unwrap(), kept);
    for command in [["migrate", "--"], ["feed", "new-epoch"]] {
        let ended = Program::new(folder.path()).args(&command[..if command[1] == "--" { 1 } else { 2 }]).run();
        assert_eq!(ended.code, Some(6), "{command:?}");
        assert!(ended.stderr.contains("an earlier run left"), "{}", ended.stderr);
    }
    // The way out that the message names.
    sh("cd \"$1\"; mkdir old; mv admin.key claviger.db.lock root-secrets old/", &[&data(folder.path(), "")]);
    assert_eq!(Program::new(folder.path()).serve().stop().code, Some(0));
}

/// Takes the first administrator out of a database, as if its start had been cut off before the commit.
async fn cut_off(folder: &Path) {
    let url = format!("sqlite://{}", data(folder, "claviger.db").display());
    let database = Database::connect(ConnectOptions::new(url)).await.unwrap();
    let tables = ["bootstrap", "credential", "api_key", "audit_log", "change_log"];
    for table in tables {
        database.execute_unprepared(&format!("DELETE FROM {table}")).await.unwrap();
    }
    database.execute_unprepared("UPDATE feed_head SET seq = 0").await.unwrap();
    database.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_69_a_first_start_that_was_cut_off_is_finished_with_the_same_key() {
    let folder = used_folder();
    let admin = admin_key(folder.path());
    let file = data(folder.path(), "admin.key");
    let before = fs::metadata(&file).unwrap();
    cut_off(folder.path()).await;
    let serving = Program::new(folder.path()).serve();
    assert_eq!(answers(&serving, &admin).await, 1);
    let ended = serving.stop();
    assert!(ended.stderr.contains("finished a first start that was cut off") && !ended.stderr.contains(&admin));
    let after = fs::metadata(&file).unwrap();
    assert_eq!((after.ino(), after.mtime_nsec()), (before.ino(), before.mtime_nsec()));
    assert_eq!(admin_key(folder.path()), admin);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_69_an_admin_key_of_another_deployment_is_kept_and_refused() {
    let (folder, other) = (used_folder(), used_folder());
    cut_off(folder.path()).await;
    let foreign = format!("{}\n", admin_key(other.path()));
    write(&data(folder.path(), "admin.key"), &foreign, 0o600);
    assert_snapshot!(refused(Program::new(folder.path())).told(), @"ERROR claviger::cli::serve: FOLDER/data/admin.key is not a key string of this deployment, and the database never had an administrator. Restore the database and the root secrets that the key was made with; or move the file away, and a new administrator is made");
    assert_eq!(fs::read_to_string(data(folder.path(), "admin.key")).unwrap(), foreign);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_61_an_upgrade_without_room_for_a_copy_says_so_and_tries_again() {
    let folder = used_folder();
    // As if it came from the schema before, large, and had not been compacted.
    let url = format!("sqlite://{}", data(folder.path(), "claviger.db").display());
    let database = Database::connect(ConnectOptions::new(url.clone())).await.unwrap();
    let padding = "CREATE TABLE padding (text BLOB); INSERT INTO padding VALUES (randomblob(6000000)); \
                   PRAGMA user_version = 0";
    database.execute_unprepared(padding).await.unwrap();
    database.close().await.unwrap();
    let data_dir = data(folder.path(), "");
    let small = format!(
        "cp -a '{0}' '{0}.kept'; mount -t tmpfs -o size=12m,mode=700 none '{0}'; cp -a '{0}.kept'/. '{0}'",
        data_dir.display().to_string().trim_end_matches('/')
    );
    let Some(program) = Program::among_mounts(folder.path(), &small) else { return };
    let ended = program.serve().stop();
    assert_eq!(ended.code, Some(0));
    assert!(ended.stderr.contains("the database could not be compacted"), "{}", ended.stderr);
    assert!(ended.stderr.contains("bytes have to be free in"), "{}", ended.stderr);
    // With room it is done, once.
    let ended = Program::new(folder.path()).serve().stop();
    assert!(ended.stderr.contains("compacted the database"), "{}", ended.stderr);
    let ended = Program::new(folder.path()).serve().stop();
    assert!(!ended.stderr.contains("compacted"), "{}", ended.stderr);
}
