//! The command line against the real service: what a person types and what is answered.

use std::{
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::harness::{Engine, Service};

/// A folder with the administrator's key, and the program in it.
struct Shell {
    folder: TempDir,
    address: String,
}

impl Shell {
    fn new(service: &Service) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("data")).unwrap();
        let shell = Self { folder, address: format!("http://{}", service.address) };
        shell.write("data/admin.key", &format!("{}\n", service.admin));
        shell
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    /// Runs `claviger` with these words and this standard input, with nothing in its environment but the address.
    async fn run(&self, words: &[&str], input: &str) -> Said {
        let mut command = Command::new(env!("CARGO_BIN_EXE_claviger"));
        command.args(words).current_dir(&self.folder).env_clear().env("CLAVIGER_ADDR", &self.address);
        let input = input.to_owned();
        let output = tokio::task::spawn_blocking(move || {
            let mut child =
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            // A program that does not read its input may have ended already.
            drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
            child.wait_with_output().unwrap()
        });
        Said::new(output.await.unwrap())
    }
}

/// What the program said, and how it ended.
struct Said {
    out: String,
    err: String,
    exit: i32,
}

impl Said {
    fn new(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { out: text(output.stdout), err: text(output.stderr), exit: output.status.code().unwrap() }
    }

    /// Both streams and the exit code, with what differs from run to run made equal.
    fn shown(&self) -> String {
        format!("{}--\n{}exit {}", alike(&self.out), alike(&self.err), self.exit)
    }
}

/// The same text for every run: ids and revisions are replaced. Times come from the harness's clock and stay.
fn alike(text: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut out = String::new();
    for piece in text.split_inclusive(|c: char| !is_word(c)) {
        let word = piece.trim_end_matches(|c: char| !is_word(c));
        let rest = &piece[word.len()..];
        let replaced = match word {
            word if word.starts_with("key_") && word.len() == 26 => "key_<id>".to_owned(),
            word if word.starts_with("clv_") && word.len() == 88 => "<key string>".to_owned(),
            word if word.starts_with("clv_") && word.len() == 26 => "clv_<public part>".to_owned(),
            word => word.to_owned(),
        };
        out.push_str(&replaced);
        out.push_str(rest);
    }
    out
}

on_every_engine! {
    async fn doctor_takes_a_key_from_its_making_to_its_end_and_leaves_none(service: Service) {
        let shell = Shell::new(&service);
        let examined = shell.run(&["doctor", "--merchant", "acme"], "").await;
        let left = shell.run(&["keys", "list", "--merchant", "acme"], "").await;
        insta::allow_duplicates! {
            insta::assert_snapshot!([examined, left].map(|said| said.shown()).join("\n\n"), @"
            ok  the service answers; the key you call with is key_<id> of claviger, claviger:admin, claviger:all-merchants
            ok  made a key: key_<id> of acme, without scopes
            ok  it is valid
            ok  revoked it
            ok  it is refused
            --
            exit 0

            API KEY  ID  MERCHANT  IP ADDRESSES  WEBHOOK  STATE  CREATED  LAST USED  EXPIRES
            --
            note: there are no such keys
            exit 0
            ");
        }
    }
}

on_every_engine! {
    async fn a_key_is_made_listed_validated_rotated_and_deleted(service: Service) {
        let shell = Shell::new(&service);
        // The list is ordered by creation.
        service.clock.advance(Duration::from_secs(1));
        let made = shell
            .run(
                &[
                    "keys", "create", "--merchant", "acme", "--name", "Till 4", "--allow-ip", "192.0.2.0/24", "--webhook",
                    "multiple", "--scope", "charge:create", "--field", "key",
                ],
                "",
            )
            .await;
        assert_eq!(made.exit, 0, "{}", made.err);
        let first = made.out.trim_end().to_owned();
        assert_eq!(first.len(), 88, "the key string is alone on standard output");
        assert!(!made.err.contains(&first), "and nowhere else");

        let listed = shell.run(&["keys", "list"], "").await;
        let ids = shell.run(&["keys", "list", "--merchant", "acme", "--field", "id"], "").await;
        let id = ids.out.trim_end();
        let valid = shell.run(&["keys", "validate", "--caller-ip", "192.0.2.7"], &format!("{first}\n")).await;
        let elsewhere = shell.run(&["keys", "validate", "--caller-ip", "198.51.100.1"], &first).await;
        let nowhere = shell.run(&["keys", "validate"], &first).await;
        let spoilt = shell.run(&["keys", "validate", "--caller-ip", "192.0.2.7"], &format!(" {first}")).await;
        let rotated = shell.run(&["keys", "rotate", id, "--overlap", "1h", "--field", "key"], "").await;
        let second = rotated.out.trim_end();
        let old = shell.run(&["keys", "validate", "--caller-ip", "192.0.2.7", "--field", "code"], &first).await;
        let new = shell.run(&["keys", "validate", "--caller-ip", "192.0.2.7", "--field", "code"], second).await;
        let deleted = shell.run(&["keys", "delete", id, "--reason", "superseded", "--note", "gone"], "").await;
        let after = shell.run(&["keys", "validate", "--caller-ip", "192.0.2.7", "--field", "code"], second).await;
        let story = [listed, valid, elsewhere, nowhere, spoilt, old, new, deleted, after];
        let story: Vec<String> = story.iter().map(Said::shown).collect();
        insta::allow_duplicates! {
            insta::assert_snapshot!(story.join("\n\n"), @r#"
            API KEY                     ID                          MERCHANT  IP ADDRESSES  WEBHOOK        STATE   CREATED               LAST USED             EXPIRES
            clv_<public part>  key_<id>  acme      192.0.2.0/24  multiple JSON  ACTIVE  2027-01-15T08:00:01Z  never                 never
            clv_<public part>  key_<id>  claviger  any           single JSON    ACTIVE  2027-01-15T08:00:00Z  2027-01-15T08:00:01Z  never
            --
            exit 0

            valid:             true
            code:              VALID
            key_id:            key_<id>
            caller_ip:         192.0.2.7
            merchant_username: acme
            display_name:      Till 4
            scopes:            charge:create
            webhook_format:    MULTIPLE_JSON
            expire_time:       never
            revision:          epoch.2
            --
            exit 0

            valid:     false
            code:      IP_NOT_ALLOWED
            key_id:    key_<id>
            caller_ip: 198.51.100.1
            revision:  epoch.2
            --
            exit 1

            valid:    false
            code:     CALLER_IP_REQUIRED
            key_id:   key_<id>
            revision: epoch.2
            --
            exit 1

            valid:     false
            code:      MALFORMED
            caller_ip: 192.0.2.7
            --
            exit 1

            VALID
            --
            exit 0

            VALID
            --
            exit 0

            id:                          key_<id>
            merchant_username:           acme
            display_name:                Till 4
            masked_key:                  clv_<public part>
            allowed_ips:                 192.0.2.0/24
            webhook_format:              MULTIPLE_JSON
            scopes:                      charge:create
            state:                       DELETED
            disabled:                    false
            create_time:                 2027-01-15T08:00:01Z
            update_time:                 2027-01-15T08:00:01Z
            expire_time:                 never
            rotate_time:                 2027-01-15T08:00:01Z
            previous_secret_expire_time: 2027-01-15T09:00:01Z
            last_used_time:              2027-01-15T08:00:01Z
            last_used_ip:                192.0.2.7
            delete_time:                 2027-01-15T08:00:01Z
            purge_time:                  2027-02-14T08:00:01Z
            delete_reason:               SUPERSEDED
            etag:                        "3"
            revision:                    epoch.4
            enforced:                    true
            enforce_time:                2027-01-15T08:00:01Z
            --
            exit 0

            DELETED
            --
            exit 1
            "#);
        }
    }
}

on_every_engine! {
    async fn mistakes_are_told_with_what_would_be_right(service: Service) {
        let shell = Shell::new(&service);
        let missing = "key_0000000000000000000000";
        let mut story = Vec::new();
        for words in [
            &["keys", "create", "--allow-ip", "10.0.0.5/8", "--scope", "Charge", "--label", "=x", "--ttl", "0s"][..],
            &["keys", "get", missing],
            &["keys", "get", "key_short"],
            &["keys", "update", missing, "--name", "x"],
            &["keys", "update", missing],
            &["keys", "rotate", missing, "--overlap", "31d"],
            &["keys", "delete", "self"],
            &["keys", "list", "--state", "deleted"],
            &["keys", "list", "--page-size", "-1"],
        ] {
            let said = shell.run(words, "").await;
            assert_ne!(said.exit, 0, "{words:?}");
            assert_eq!(said.out, "", "{words:?}");
            story.push(format!("$ claviger {}\n{}", words.join(" "), said.shown()));
        }
        insta::allow_duplicates! {
            insta::assert_snapshot!(story.join("\n\n"), @"
            $ claviger keys create --allow-ip 10.0.0.5/8 --scope Charge --label =x --ttl 0s
            --
            error: the service refuses the request for several fields
              api_key.allowed_ips[0]: `10.0.0.5/8` has bits set beyond its prefix; write 10.0.0.0/8 for the block or 10.0.0.5 for the address
              api_key.scopes[0]: `Charge` holds `C`; a scope consists of a-z0-9:._- and is compared whole
              api_key.labels: is an empty key; give the label a name
              api_key.ttl: is zero; it has to be above zero
              reason: FIELDS_INVALID (INVALID_ARGUMENT)
            exit 3

            $ claviger keys get key_0000000000000000000000
            --
            error: there is no such key within the caller's reach
              reason: KEY_NOT_FOUND (NOT_FOUND)
            exit 3

            $ claviger keys get key_short
            --
            error: the service refuses the request for one field
              id: `key_short` is no key id; it is `key_` and 22 characters of 0-9A-Za-z
              reason: FIELDS_INVALID (INVALID_ARGUMENT)
            exit 3

            $ claviger keys update key_0000000000000000000000 --name x
            --
            error: there is no such key within the caller's reach
              reason: KEY_NOT_FOUND (NOT_FOUND)
            exit 3

            $ claviger keys update key_0000000000000000000000
            --
            error: there is nothing to change; name a setting, or --clear one
            exit 2

            $ claviger keys rotate key_0000000000000000000000 --overlap 31d
            --
            error: the service refuses the request for one field
              overlap: is not between 0 and 30 days (2592000s)
              reason: FIELDS_INVALID (INVALID_ARGUMENT)
            exit 3

            $ claviger keys delete self
            --
            error: the service refuses the request for one field
              id: `self` is no key id; it is `key_` and 22 characters of 0-9A-Za-z
              reason: FIELDS_INVALID (INVALID_ARGUMENT)
            exit 3

            $ claviger keys list --state deleted
            --
            error: the service refuses the request for one field
              states[0]: asks for deleted keys, which need show_deleted
              reason: FIELDS_INVALID (INVALID_ARGUMENT)
            exit 3

            $ claviger keys list --page-size -1
            --
            error: the service refuses the request for one field
              page_size: is below 0; use 0 for 50, or 1 to 1000
              reason: FIELDS_INVALID (INVALID_ARGUMENT)
            exit 3
            ");
        }
    }
}

on_every_engine! {
    async fn whoever_calls_without_a_good_key_is_told_how(service: Service) {
        let mut shell = Shell::new(&service);
        let mut story = vec![shell.run(&["whoami"], "").await.shown()];
        shell.write("data/admin.key", "nonsense\n");
        story.push(shell.run(&["whoami"], "").await.shown());
        std::fs::remove_file(shell.folder.path().join("data/admin.key")).unwrap();
        story.push(shell.run(&["whoami"], "").await.shown());
        shell.write("data/admin.key", &service.admin);
        shell.address = String::from("http://127.0.0.1:1");
        story.push(shell.run(&["whoami"], "").await.shown());
        insta::allow_duplicates! {
            insta::assert_snapshot!(story.join("\n\n"), @r#"
            id:                key_<id>
            merchant_username: claviger
            display_name:      administrator
            masked_key:        clv_<public part>
            allowed_ips:       any
            webhook_format:    SINGLE_JSON
            scopes:            claviger:admin, claviger:all-merchants
            state:             ACTIVE
            disabled:          false
            create_time:       2027-01-15T08:00:00Z
            update_time:       2027-01-15T08:00:00Z
            expire_time:       never
            last_used_time:    2027-01-15T08:00:00Z
            last_used_ip:      127.0.0.1
            etag:              "1"
            --
            exit 0

            --
            error: the key string in `authorization` is not one that is accepted now
              reason: CREDENTIALS_INVALID (UNAUTHENTICATED)
            exit 4

            --
            error: there is no key to call with
              looked for: --key-file, CLAVIGER_KEY, CLAVIGER_KEY_FILE, ./data/admin.key
              give one by --key-file FILE or by one of these environment variables; a service on its embedded
              database writes the first administrator's key to admin.key in its data folder
            exit 4

            --
            error: cannot connect to http://127.0.0.1:1: Connection refused (os error 111)
              Is the service running there? `claviger serve` starts it; --addr or CLAVIGER_ADDR names another address.
            exit 5
            "#);
        }
    }
}

on_every_engine! {
    async fn a_key_that_rotates_itself_replaces_its_own_file(service: Service) {
        let shell = Shell::new(&service);
        let before = shell.read("data/admin.key");
        let said = shell.run(&["keys", "rotate", "self", "--field", "key"], "").await;
        assert_eq!(said.exit, 0, "{}", said.err);
        let after = shell.read("data/admin.key");
        assert_ne!(after, before);
        assert_eq!(after, said.out);
        let mode = std::fs::metadata(shell.folder.path().join("data/admin.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(shell.run(&["whoami", "--field", "state"], "").await.out, "ACTIVE\n");
        let leftovers: Vec<_> = std::fs::read_dir(Path::new(shell.folder.path()).join("data")).unwrap().collect();
        assert_eq!(leftovers.len(), 1, "{leftovers:?}");
    }
}
