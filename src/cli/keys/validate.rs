//! `claviger keys validate`.

use std::{io, path::PathBuf};

use clap::Args;
use zeroize::Zeroizing;

use crate::{
    cli::{
        client::{Client, ClientArgs},
        console::Console,
        exit::{EXIT_CODES, Exit, Failure},
        key_file, output,
    },
    grpc::proto::{DecisionCode, ValidateRequest, ValidateResponse},
};

/// The most bytes of a key under test that are sent; the service takes no request over 256 KiB.
const MOST: usize = 256 * 1024;

/// What to ask of the key under test.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXIT_CODES)]
pub struct ValidateArgs {
    /// Address that the key is used from
    #[arg(long, value_name = "ADDRESS")]
    caller_ip: Option<String>,

    /// Scope that the key has to hold; repeatable
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<String>,

    /// State of the database that the decision must not be older than: the revision that an earlier answer told
    #[arg(long, value_name = "REVISION")]
    min_revision: Option<String>,

    #[arg(
        long,
        value_name = "FILE",
        help = "Read the key under test from this file, or from CLAVIGER_TEST_KEY, instead of standard input"
    )]
    test_key_file: Option<PathBuf>,
}

pub(super) async fn run(console: &mut Console, client: &ClientArgs, args: ValidateArgs) -> Result<Exit, Failure> {
    let form = client.output.form::<ValidateResponse>()?;
    let mut key = key_under_test(console, args.test_key_file)?;
    let request = ValidateRequest {
        key: std::mem::take(&mut *key),
        caller_ip: args.caller_ip.unwrap_or_default(),
        required_scopes: args.scope,
        min_revision: args.min_revision.unwrap_or_default(),
    };
    let client = Client::connect(client, console).await?;
    let answer = client.ask(request, async |mut service, request| service.validate(request).await).await?;
    output::show(console, &form, &answer)?;
    // Both have to say so: whatever else comes is a refusal.
    let valid = answer.valid && answer.code == i32::from(DecisionCode::Valid);
    Ok(if valid { Exit::Done } else { Exit::No })
}

fn key_under_test(console: &mut Console, file: Option<PathBuf>) -> Result<Zeroizing<String>, Failure> {
    if let Some(path) = file {
        let name = path.display().to_string();
        return text(&name, key_file::read(&path, MOST, console));
    }
    if let Some(key) = console.variable("CLAVIGER_TEST_KEY") {
        let key = key.to_str().map(|key| Zeroizing::new(key.to_owned()));
        console.tell("note: the key under test is taken from CLAVIGER_TEST_KEY");
        return key.ok_or_else(|| Failure::new(Exit::Usage, "CLAVIGER_TEST_KEY is not text"));
    }
    if console.input_is_terminal() {
        console.tell("note: waiting for a key string on standard input, and a line end");
    }
    let input = console.read_input(MOST).map(|bytes| (bytes.len() <= MOST).then(|| key_file::without_line_end(bytes)));
    text("standard input", input)
}

fn text(name: &str, read: io::Result<Option<Zeroizing<Vec<u8>>>>) -> Result<Zeroizing<String>, Failure> {
    let usage = |what: String| Failure::new(Exit::Usage, format!("the key under test: {name} {what}"));
    let bytes = read
        .map_err(|error| usage(format!("cannot be read: {error}")))?
        .ok_or_else(|| usage(format!("holds more than {MOST} bytes, which no request can carry")))?;
    // A string on the wire is UTF-8; bytes that are not cannot even be asked about.
    key_file::text(bytes).ok_or_else(|| usage("is not UTF-8, so it is no key string".to_owned()))
}
