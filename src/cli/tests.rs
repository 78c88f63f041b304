//! The commands against a service on a real socket.

mod calling;
mod changing;
mod creating;
mod examining;
mod help;
mod reading;
mod rotating;
mod validating;

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Cursor, Write},
    path::PathBuf,
    sync::{Arc, Mutex},
};

use clap::Parser;

use super::{client::ClientArgs, console::Console, doctor, exit::Exit, keys, whoami};

/// A key to call with.
const KEY: &str = "clv_caller";

#[derive(Parser)]
#[command(name = "claviger")]
enum Cli {
    Keys {
        #[command(flatten)]
        client: ClientArgs,
        #[command(subcommand)]
        command: keys::KeysCommand,
    },
    /// Show the key that you call with
    Whoami {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Try a running service from end to end: make a key, validate it, revoke it, see it refused
    Doctor {
        #[command(flatten)]
        args: doctor::DoctorArgs,
        #[command(flatten)]
        client: ClientArgs,
    },
}

/// What surrounds a command that a test runs.
struct Session {
    address: String,
    input: Vec<u8>,
    variables: BTreeMap<&'static str, std::ffi::OsString>,
    default_key_file: PathBuf,
    output_breaks: Option<io::ErrorKind>,
}

/// What a command wrote, and how it ended.
struct Ended {
    exit: Exit,
    output: String,
    messages: String,
}

impl Session {
    /// Calls the service at `address` with [`KEY`].
    fn with(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            input: Vec::new(),
            variables: [("CLAVIGER_KEY", KEY.into())].into(),
            default_key_file: PathBuf::from("/nowhere/data/admin.key"),
            output_breaks: None,
        }
    }

    async fn run(&self, arguments: &[&str]) -> Ended {
        let line = ["claviger"].iter().chain(arguments).copied().chain(["--addr", &self.address]);
        let cli = Cli::try_parse_from(line).unwrap();
        let (output, messages) = (Written::breaking(self.output_breaks), Written::default());
        let mut console = Console::of_a_test(
            output.clone(),
            messages.clone(),
            Cursor::new(self.input.clone()),
            self.variables.clone(),
            self.default_key_file.clone(),
        );
        let exit = match cli {
            Cli::Keys { client, command } => keys::run_on(&mut console, &client, command).await,
            Cli::Whoami { client } => whoami::run_on(&mut console, &client).await,
            Cli::Doctor { client, args } => doctor::run_on(&mut console, &client, args).await,
        };
        Ended { exit, output: output.text(), messages: messages.text().replace(&self.address, "http://[address]") }
    }
}

/// For snapshots: exactly what a person sees.
impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit {}\n--- stdout\n{}--- stderr\n{}", self.exit as u8, self.output, self.messages)
    }
}

/// A stream that remembers, or one that breaks.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>, Option<io::ErrorKind>);

impl Written {
    fn breaking(kind: Option<io::ErrorKind>) -> Self {
        Self(Arc::default(), kind)
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.1 {
            Some(kind) => Err(kind.into()),
            None => self.0.lock().unwrap().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
