//! Starts that have to be refused, and those that must not be: root secrets, schemas of other versions.

use std::{fs, path::Path};

use insta::assert_snapshot;
use sea_orm_migration::MigratorTrait;

use crate::harness::{
    Engine, TestDatabase,
    dump::{number, texts},
    process::{Ended, Program, write},
};
use sea_orm::ConnectionTrait;

const OTHER_ROOT: &str = "5bd61f0b4f1a9c4d0be1ab3c7a5a9c0de0f1a2b3c4d5e6f708192a3b4c5d6e7f\n";

/// The root secret of the deployment in `folder`, which was started once.
fn deployment(folder: &Path) -> String {
    assert_eq!(Program::new(folder).serve().stop().code, Some(0));
    fs::read_to_string(folder.join("data/root-secrets/0")).unwrap()
}

/// What is told by a start that has to be refused.
fn refused(folder: &Path) -> String {
    let ended = Program::new(folder).begin().ended();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(6), ""), "{}", ended.stderr);
    ended.told()
}

#[test]
fn case_41_a_wrong_root_secret_is_named_and_nothing_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let good = deployment(folder.path());
    let file = folder.path().join("data/root-secrets/0");
    let with = |text: &str, mode: u32| {
        write(&file, text, mode);
        let told = refused(folder.path());
        assert!(!told.contains(text.trim_end()), "{told}");
        told
    };
    assert_snapshot!(with(&good, 0o644), @"
    ERROR claviger::cli::serve: a root secret is wrong:
      FOLDER/data/root-secrets/0 can be read by everybody (mode 644); take that away with `chmod o= FILE`
    ");
    assert_snapshot!(with(&good[..40], 0o600), @"
    ERROR claviger::cli::serve: a root secret is wrong:
      FOLDER/data/root-secrets/0 has 40 characters; a root secret is 64 hexadecimal digits
    ");
    assert_snapshot!(with(OTHER_ROOT, 0o600), @"
    ERROR claviger::cli::serve: the root secret `0` in the folder is not the one this database was used with; mount the right folder
      (CLAVIGER_ROOT_SECRETS is FOLDER/data/root-secrets)
    ");
    assert_snapshot!(with(&"0".repeat(64), 0o600), @"
    ERROR claviger::cli::serve: a root secret is wrong:
      FOLDER/data/root-secrets/0 is one digit pair over and over; make one with `openssl rand -hex 32`
    ");
    assert_snapshot!(with(&good.replace(&good[10..11], "x"), 0o600), @"
    ERROR claviger::cli::serve: a root secret is wrong:
      FOLDER/data/root-secrets/0 holds other characters than hexadecimal digits; a root secret is 64 of them
    ");
    fs::remove_file(&file).unwrap();
    assert_snapshot!(refused(folder.path()), @"
    ERROR claviger::cli::serve: the root secret `0` is in use and not in the folder; mount it
      (CLAVIGER_ROOT_SECRETS is FOLDER/data/root-secrets)
    ");
    // The right one under another name is missing all the same, and never made anew.
    write(&folder.path().join("data/root-secrets/1"), &good, 0o600);
    assert_snapshot!(refused(folder.path()), @"
    ERROR claviger::cli::serve: the root secret `0` is in use and not in the folder; mount it
      (CLAVIGER_ROOT_SECRETS is FOLDER/data/root-secrets)
    ");
    fs::remove_dir_all(folder.path().join("data/root-secrets")).unwrap();
    refused(folder.path());
    assert!(!folder.path().join("data/root-secrets").exists());
    fs::create_dir(folder.path().join("data/root-secrets")).unwrap();
    write(&file, &good, 0o400);
    assert_eq!(Program::new(folder.path()).serve().stop().code, Some(0));
}

#[test]
fn case_41_a_folder_that_was_named_is_never_filled_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let start = || Program::new(folder.path()).set("CLAVIGER_ROOT_SECRETS", "mounted").begin().ended();
    let missing = start();
    fs::create_dir(folder.path().join("mounted")).unwrap();
    let empty = start();
    write(&folder.path().join("mounted/0"), OTHER_ROOT, 0o600);
    write(&folder.path().join("mounted/1"), &OTHER_ROOT.replace('5', "6"), 0o600);
    let several = start();
    for ended in [&missing, &empty, &several] {
        assert_eq!(ended.code, Some(6));
    }
    assert_snapshot!(missing.told(), @"
    INFO claviger::store::schema: migrated the schema from=0 to=4
    ERROR claviger::cli::serve: there is no root secret in the folder; make one with `openssl rand -hex 32`
      (CLAVIGER_ROOT_SECRETS is FOLDER/mounted)
    ");
    assert_snapshot!(empty.told(), @"
    ERROR claviger::cli::serve: there is no root secret in the folder; make one with `openssl rand -hex 32`
      (CLAVIGER_ROOT_SECRETS is FOLDER/mounted)
    ");
    assert_snapshot!(several.told(), @"
    ERROR claviger::cli::serve: the database is new and the folder holds the root secrets `0`, `1`; leave only the one to begin with
      (CLAVIGER_ROOT_SECRETS is FOLDER/mounted)
    ");
}

/// A program on `database` with a root secret mounted.
fn on(folder: &Path, database: &TestDatabase) -> Program {
    let mounted = folder.join("mounted");
    fs::create_dir_all(&mounted).unwrap();
    write(&mounted.join("0"), OTHER_ROOT, 0o600);
    Program::new(folder)
        .set("CLAVIGER_DATABASE_URL", database.url())
        .set("CLAVIGER_ROOT_SECRETS", mounted.to_str().unwrap())
}

async fn a_newer_schema(engine: Engine) -> Option<Ended> {
    let database = TestDatabase::new(engine).await?;
    let folder = tempfile::tempdir().unwrap();
    // Root secrets without a database are no first start, unless it is said who is to be the administrator.
    let first = on(folder.path(), &database).set("CLAVIGER_BOOTSTRAP_KEY_FILE", "not read yet");
    assert_eq!(first.args(&["migrate"]).run().code, Some(0));
    let by_hand = database.by_hand().await;
    let steps = "SELECT version AS n FROM seaql_migrations ORDER BY version";
    let before = texts(&by_hand, steps).await;
    let schema =
        |version: i32, oldest: i32| format!("UPDATE schema_version SET version = {version}, oldest_binary = {oldest}");
    by_hand.execute_unprepared(&schema(99, 1)).await.unwrap();
    assert_eq!(on(folder.path(), &database).serve().stop().code, Some(0));
    assert_eq!(on(folder.path(), &database).args(&["migrate"]).run().code, Some(0));
    assert_eq!(number(&by_hand, "SELECT CAST(version AS BIGINT) AS n FROM schema_version").await, 99);
    assert_eq!(texts(&by_hand, steps).await, before);
    by_hand.execute_unprepared(&schema(99, 98)).await.unwrap();
    assert_eq!(on(folder.path(), &database).args(&["migrate"]).run().code, Some(6));
    assert_eq!(on(folder.path(), &database).args(&["bootstrap", "--recover"]).run().code, Some(6));
    Some(on(folder.path(), &database).begin().ended())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_42_a_newer_schema_is_used_unless_it_says_no_on_sqlite() {
    let refused = a_newer_schema(Engine::Sqlite).await.unwrap();
    assert_eq!(refused.code, Some(6));
    assert_snapshot!(refused.told(), @"ERROR claviger::cli::serve: migrating the database: the database has schema 99, which needs a Claviger that knows schema 98; this one knows 4: use a newer Claviger");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_42_a_newer_schema_is_used_unless_it_says_no_on_postgres() {
    let Some(refused) = a_newer_schema(Engine::Postgres).await else { return };
    assert_eq!(refused.code, Some(6));
    assert_snapshot!(refused.told(), @"ERROR claviger::cli::serve: migrating the database: the database has schema 99, which needs a Claviger that knows schema 98; this one knows 4: use a newer Claviger");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_42_many_migrate_at_once_and_one_does_it() {
    let Some(database) = TestDatabase::new(Engine::Postgres).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let migrate = || on(folder.path(), &database).args(&["migrate"]).start();
    let all = [migrate(), migrate(), migrate(), migrate()];
    for ended in all.map(super::harness::process::Running::ended) {
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }
    let by_hand = database.by_hand().await;
    let steps = i64::try_from(claviger::migrations::Migrator::migrations().len()).unwrap();
    assert_eq!(number(&by_hand, "SELECT count(*) AS n FROM seaql_migrations").await, steps);
    assert_eq!(number(&by_hand, "SELECT count(*) AS n FROM feed_head").await, 1);
}

#[test]
fn a_database_that_is_not_there_is_told_without_its_password() {
    let folder = tempfile::tempdir().unwrap();
    let ended = Program::new(folder.path())
        .set("CLAVIGER_DATABASE_URL", "postgres://claviger:hunter2@127.0.0.1:1/claviger")
        .begin()
        .ended();
    assert_eq!(ended.code, Some(6));
    assert!(!ended.stderr.contains("hunter2"));
    assert_snapshot!(ended.told(), @"
    ERROR claviger::cli::serve: opening the database: the database does not answer or takes no changes now; nothing was changed
      error communicating with database: Connection refused (os error 111)
    ");
}
