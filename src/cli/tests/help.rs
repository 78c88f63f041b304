//! What `--help` says.

use clap::{CommandFactory, Parser};
use insta::assert_snapshot;

use super::Cli;

fn help(path: &[&str]) -> String {
    let mut command = Cli::command().term_width(100);
    command.build();
    let mut command = &mut command;
    for name in path {
        command = command.find_subcommand_mut(name).unwrap();
    }
    let help = command.clone().term_width(100).render_long_help().to_string();
    // What is the same everywhere is shown once, by whoami.
    match help.split_once("\nConnection:\n") {
        Some((own, shared)) if path != ["whoami"] => {
            let end = shared.split_once("\nExit codes:").map_or("", |_| "\n[Exit codes]\n");
            format!("{own}\n[Connection, Output]\n{end}")
        }
        _ => help,
    }
}

fn refusal(arguments: &[&str]) -> String {
    let line = ["claviger", "keys"].iter().chain(arguments);
    let Err(error) = Cli::try_parse_from(line) else { panic!("accepted: {arguments:?}") };
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

#[test]
fn help_of_keys() {
    assert_snapshot!(help(&["keys"]), @"
    What to do with keys

    Usage: claviger keys [OPTIONS] <COMMAND>

    Commands:
      create    Make a key and show its key string, this once
      get       Show one key
      list      Show keys in a table, newest first
      update    Change settings of a key
      rotate    Give a key a new secret and show the new key string, this once
      delete    Revoke a key for good
      validate  Ask whether a key string is good now
      help      Print this message or the help of the given subcommand(s)

    Options:
      -h, --help
              Print help (see a summary with '-h')

    [Connection, Output]

    [Exit codes]
    ");
}

#[test]
fn help_of_create() {
    assert_snapshot!(help(&["keys", "create"]), @"
    Make a key and show its key string, this once

    Nothing can show it again: take it from standard output, alone with --field key.

    Usage: claviger keys create [OPTIONS]

    Options:
          --merchant <USERNAME>
              Account the key is for; without it, that of the key you call with

          --name <TEXT>
              Name for people

          --allow-ip <ADDRESS>
              Address or CIDR block that the key may be used from; repeatable. Without any: from
              everywhere

          --deny-ip <ADDRESS>
              Address or CIDR block that the key may not be used from, even if allowed; repeatable

          --webhook <FORMAT>
              How webhooks for this key are written

              Possible values:
              - single:   The payload as one JSON string
              - multiple: Each field on a line of its own

          --scope <SCOPE>
              What the key may do, such as `payments:charge`; repeatable

          --label <NAME=VALUE>
              A note of your own; repeatable

          --not-before <TIME>
              Refuse the key before this moment, such as 2027-01-31T12:00:00Z

          --expires <TIME>
              Refuse the key from this moment on

          --ttl <DURATION>
              Instead of --expires: refuse the key so long after now, such as 30d

          --disabled
              Make the key switched off

          --request-id <ID>
              Repeat an earlier create whose answer was lost: within 15 minutes the same key is shown
              again, and no second one is made. An id of your own should be 128 random bits, such as
              from `openssl rand -hex 16`; without this option the command makes one

      -h, --help
              Print help (see a summary with '-h')

    [Connection, Output]
    ");
}

#[test]
fn help_of_get() {
    assert_snapshot!(help(&["keys", "get"]), @"
    Show one key

    Usage: claviger keys get [OPTIONS] <ID>

    Arguments:
      <ID>
              Id of the key, or `self` for the one you call with

    Options:
          --merchant <USERNAME>
              Account that the key has to belong to

      -h, --help
              Print help (see a summary with '-h')

    [Connection, Output]
    ");
}

#[test]
fn help_of_list() {
    assert_snapshot!(help(&["keys", "list"]), @"
    Show keys in a table, newest first

    Usage: claviger keys list [OPTIONS]

    Options:
          --merchant <USERNAME>
              Only keys of this account

          --state <STATE>
              Only keys in this state; repeatable

              Possible values:
              - active:        Can be used
              - disabled:      Switched off by hand
              - not-yet-valid: Its time has not come
              - expired:       Its time is over
              - deleted:       Deleted, and not purged yet

          --show-deleted
              Show deleted keys, too

          --limit <NUMBER>
              Show so many keys at most [default: all]

          --page-size <NUMBER>
              Ask for so many keys at once

      -h, --help
              Print help (see a summary with '-h')

    [Connection, Output]
    ");
}

#[test]
fn help_of_update() {
    assert_snapshot!(help(&["keys", "update"]), @"
    Change settings of a key

    What is not named stays as it is. A list that is named replaces the one before; --clear empties one.

    Usage: claviger keys update [OPTIONS] <ID>

    Arguments:
      <ID>
              Id of the key

    Options:
          --merchant <USERNAME>
              Account that the key has to belong to

          --name <TEXT>
              Name for people

          --allow-ip <ADDRESS>
              Address or CIDR block that the key may be used from; repeatable. Without any: from
              everywhere

          --deny-ip <ADDRESS>
              Address or CIDR block that the key may not be used from, even if allowed; repeatable

          --webhook <FORMAT>
              How webhooks for this key are written

              Possible values:
              - single:   The payload as one JSON string
              - multiple: Each field on a line of its own

          --scope <SCOPE>
              What the key may do, such as `payments:charge`; repeatable

          --label <NAME=VALUE>
              A note of your own; repeatable

          --not-before <TIME>
              Refuse the key before this moment, such as 2027-01-31T12:00:00Z

          --expires <TIME>
              Refuse the key from this moment on

          --ttl <DURATION>
              Instead of --expires: refuse the key so long after now, such as 30d

          --disable
              Switch the key off

          --enable
              Switch the key on again

          --previous-secret-expires <TIME>
              End the overlap of the last rotation at this moment, earlier than it would

          --clear <SETTING>
              Empty this setting; repeatable

              Possible values:
              - allow-ip:        Allow all addresses that are not denied
              - deny-ip:         Deny no address
              - scope:           Take all scopes away
              - label:           Forget all labels
              - name:            Forget the name
              - not-before:      Valid from its creation
              - expires:         Never expire
              - previous-secret: End the overlap of the last rotation now

          --etag <ETAG>
              Refuse if the key's etag is another: somebody changed the key meanwhile

          --no-wait
              Do not wait until no replica decides on the state before any more

      -h, --help
              Print help (see a summary with '-h')

    [Connection, Output]
    ");
}

#[test]
fn help_of_rotate() {
    assert_snapshot!(help(&["keys", "rotate"]), @"
    Give a key a new secret and show the new key string, this once

    The id, the settings and the time it expires stay. Rotating the key that you call with replaces the
    key file.

    Usage: claviger keys rotate [OPTIONS] <ID>

    Arguments:
      <ID>
              Id of the key, or `self` for the one you call with

    Options:
          --merchant <USERNAME>
              Account that the key has to belong to

          --overlap <DURATION>
              Accept the old secret so long beside the new one, such as 1h; at most 30d [default: not at
              all; 15m for the key you call with]

          --etag <ETAG>
              Refuse if the key's etag is another: somebody changed the key meanwhile

          --request-id <ID>
              Repeat an earlier rotate whose answer was lost: within 15 minutes the same key string is
              shown again, and no other one is made. An id of your own should be 128 random bits, such
              as from `openssl rand -hex 16`; without this option the command makes one

          --no-wait
              Do not wait until no replica decides on the state before any more

      -h, --help
              Print help (see a summary with '-h')

    [Connection, Output]
    ");
}

#[test]
fn help_of_delete() {
    assert_snapshot!(help(&["keys", "delete"]), @"
    Revoke a key for good

    Safe to repeat. The record can be read until it is purged.

    Usage: claviger keys delete [OPTIONS] <ID>

    Arguments:
      <ID>
              Id of the key

    Options:
          --merchant <USERNAME>
              Account that the key has to belong to

          --reason <REASON>
              Why

              Possible values:
              - compromised: Somebody else may know the secret; such a key never comes back
              - superseded:  Another key took its place
              - unused:      Nobody used it
              - owner-left:  Whoever was responsible for it has left

          --note <TEXT>
              A note for the audit log

          --etag <ETAG>
              Refuse if the key's etag is another: somebody changed the key meanwhile

          --no-wait
              Do not wait until no replica decides on the state before any more

      -h, --help
              Print help (see a summary with '-h')

    [Connection, Output]
    ");
}

#[test]
fn help_of_validate() {
    assert_snapshot!(help(&["keys", "validate"]), @"
    Ask whether a key string is good now

    The key under test is read from standard input, never from an argument, where others could see it.
    One line end after it is removed, and nothing else.

    Usage: claviger keys validate [OPTIONS]

    Options:
          --caller-ip <ADDRESS>
              Address that the key is used from

          --scope <SCOPE>
              Scope that the key has to hold; repeatable

          --min-revision <REVISION>
              State of the database that the decision must not be older than: the revision that an
              earlier answer told

          --test-key-file <FILE>
              Read the key under test from this file, or from CLAVIGER_TEST_KEY, instead of standard
              input

      -h, --help
              Print help (see a summary with '-h')

    [Connection, Output]

    [Exit codes]
    ");
}

#[test]
fn help_of_doctor() {
    assert_snapshot!(help(&["doctor"]), @"
    Try a running service from end to end: make a key, validate it, revoke it, see it refused

    Usage: claviger doctor [OPTIONS]

    Options:
          --merchant <USERNAME>
              Account the key is made for; without it, that of the key you call with

      -h, --help
              Print help (see a summary with '-h')

    [Connection, Output]
    ");
}

#[test]
fn help_of_whoami() {
    assert_snapshot!(help(&["whoami"]), @"
    Show the key that you call with

    Usage: claviger whoami [OPTIONS]

    Options:
      -h, --help
              Print help (see a summary with '-h')

    Connection:
          --addr <URL>
              Address of the service
              
              [env: CLAVIGER_ADDR]
              [default: http://127.0.0.1:50051]

          --ca-file <FILE>
              With https: whom to trust to sign certificates, a PEM file, instead of those that this
              machine trusts
              
              [env: CLAVIGER_CA_FILE]

          --server-name <NAME>
              With https: the name that the certificate has to be for, if it is not that in the address
              
              [env: CLAVIGER_SERVER_NAME]

          --key-file <FILE>
              File with the key to call with [default: ./data/admin.key if it exists] [env:
              CLAVIGER_KEY_FILE; or CLAVIGER_KEY, the key itself]

          --timeout <DURATION>
              How long to wait for each answer
              
              [default: 10s]

    Output:
      -o, --output <FORMAT>
              For people, or for machines: JSON as protojson writes it

              Possible values:
              - table: A table or a listing
              - json:  Proto JSON
              
              [default: table]

          --field <NAME>
              Print this field of the answer alone, such as `id`, `etag` or, of a new key, `key`
    ");
}

#[test]
fn a_wrong_command_line_says_what_would_be_right() {
    assert_snapshot!(refusal(&["create", "--expires", "2027-01-31"]), @"
    error: invalid value '2027-01-31' for '--expires <TIME>': no RFC 3339 time; write it like 2027-01-31T12:00:00Z or 2027-01-31T13:00:00+01:00

    For more information, try '--help'.
    ");
    assert_snapshot!(refusal(&["create", "--expires", "2027-01-31T12:00:00Z", "--ttl", "30d"]), @"
    error: the argument '--expires <TIME>' cannot be used with '--ttl <DURATION>'

    Usage: claviger keys create --expires <TIME>

    For more information, try '--help'.
    ");
    assert_snapshot!(refusal(&["create", "--ttl", "30"]), @"
    error: invalid value '30' for '--ttl <DURATION>': time unit needed, for example 30sec or 30ms; write it like 90s, 1h or 30d

    For more information, try '--help'.
    ");
    assert_snapshot!(refusal(&["create", "--label", "team"]), @"
    error: invalid value 'team' for '--label <NAME=VALUE>': no label; write it like name=value

    For more information, try '--help'.
    ");
    assert_snapshot!(refusal(&["list", "--addr", "127.0.0.1:50051"]), @"
    error: invalid value '127.0.0.1:50051' for '--addr <URL>': it does not begin with https:// or http://; write it like https://keys.example:50051 or http://127.0.0.1:50051

    For more information, try '--help'.
    ");
    assert_snapshot!(refusal(&["list", "--addr", "https://keys.example/v1"]), @"
    error: invalid value 'https://keys.example/v1' for '--addr <URL>': nothing may follow the port; write it like https://keys.example:50051 or http://127.0.0.1:50051

    For more information, try '--help'.
    ");
    assert_snapshot!(refusal(&["list", "--server-name", "keys example"]), @"
    error: invalid value 'keys example' for '--server-name <NAME>': it is no DNS name and no address; write it like keys.example

    For more information, try '--help'.
    ");
    assert_snapshot!(refusal(&["list", "--timeout", "0s"]), @"
    error: invalid value '0s' for '--timeout <DURATION>': has to be above zero

    For more information, try '--help'.
    ");
    assert_snapshot!(refusal(&["list", "-o", "json", "--field", "id"]), @"
    error: the argument '--output <FORMAT>' cannot be used with '--field <NAME>'

    Usage: claviger keys list --output <FORMAT>

    For more information, try '--help'.
    ");
    assert_snapshot!(refusal(&["delete", "key_1", "--reason", "bored"]), @"
    error: invalid value 'bored' for '--reason <REASON>'
      [possible values: compromised, superseded, unused, owner-left]

    For more information, try '--help'.
    ");
    assert_snapshot!(refusal(&["update", "key_1", "--clear", "everything"]), @"
    error: invalid value 'everything' for '--clear <SETTING>'
      [possible values: allow-ip, deny-ip, scope, label, name, not-before, expires, previous-secret]

    For more information, try '--help'.
    ");
}

#[test]
fn options_of_the_client_stand_before_or_behind_the_command() {
    for line in [["keys", "--timeout", "3s", "list"], ["keys", "list", "--timeout", "3s"]] {
        let Cli::Keys { client, .. } = Cli::try_parse_from(["claviger"].iter().chain(&line)).unwrap() else {
            panic!("another command")
        };
        assert!(format!("{client:?}").contains("timeout: 3s"), "{client:?}");
    }
}
