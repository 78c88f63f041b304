//! What a command reads and writes besides the network: the process's streams and environment, or a test's.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt,
    io::{self, IsTerminal, Read, Write},
    path::PathBuf,
};

use zeroize::Zeroizing;

use super::exit::{Exit, Failure};

/// Where the key of the first administrator lies, seen from the folder that the service was started in.
const DEFAULT_KEY_FILE: &str = "./data/admin.key";

/// The variables that a command may ask for.
const VARIABLES: [&str; 3] = ["CLAVIGER_KEY", "CLAVIGER_KEY_FILE", "CLAVIGER_TEST_KEY"];

/// Streams and environment.
pub(crate) struct Console {
    output: Box<dyn Write + Send>,
    messages: Box<dyn Write + Send>,
    input: Box<dyn Read + Send>,
    input_is_terminal: bool,
    variables: BTreeMap<&'static str, OsString>,
    default_key_file: PathBuf,
}

impl Console {
    /// Those of this process.
    #[expect(clippy::disallowed_methods, reason = "the client has no other settings, and reads these once, here")]
    pub(crate) fn of_the_process() -> Self {
        Self {
            output: Box::new(io::stdout()),
            messages: Box::new(io::stderr()),
            input: Box::new(io::stdin()),
            input_is_terminal: io::stdin().is_terminal(),
            variables: VARIABLES.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))).collect(),
            default_key_file: PathBuf::from(DEFAULT_KEY_FILE),
        }
    }

    /// Writes `text` to standard output, now.
    ///
    /// # Errors
    /// Those of the stream; a closed pipe is one of them.
    pub(crate) fn write(&mut self, text: &str) -> io::Result<()> {
        self.output.write_all(text.as_bytes())?;
        self.output.flush()
    }

    /// Writes `text` to standard output. If nobody reads it any more, that is no failure.
    pub(crate) fn show(&mut self, text: &str) -> Result<(), Failure> {
        match self.write(text) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Failure::new(Exit::Fault, format!("the answer could not be written to standard output: {error}")))
            }
            _ => Ok(()),
        }
    }

    /// Tells the person something, on standard error. Foreign text in it has to be escaped already.
    pub(crate) fn tell(&mut self, message: impl fmt::Display) {
        // There is nobody left to tell that nobody can be told.
        let _ = writeln!(self.messages, "{message}").and_then(|()| self.messages.flush());
    }

    /// The environment variable `name`, one of those known above.
    pub(crate) fn variable(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(name).map(OsString::as_os_str)
    }

    /// Where to look for a key that was not given otherwise.
    pub(crate) fn default_key_file(&self) -> PathBuf {
        self.default_key_file.clone()
    }

    /// Whether somebody types the standard input.
    pub(crate) fn input_is_terminal(&self) -> bool {
        self.input_is_terminal
    }

    /// Standard input to its end, or to the end of the line if it is typed; at most `most` bytes and one more.
    pub(crate) fn read_input(&mut self, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
        // Room for all of it from the start: a buffer that grows leaves copies of the secret behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(most + 1));
        let mut byte = [0];
        while bytes.len() <= most {
            match self.input.read(&mut byte) {
                Ok(0) => break,
                Ok(_) => bytes.push(byte[0]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.input_is_terminal && byte[0] == b'\n' {
                break;
            }
        }
        Ok(bytes)
    }
}

#[cfg(test)]
impl Console {
    /// A console of a test.
    pub(crate) fn of_a_test(
        output: impl Write + Send + 'static,
        messages: impl Write + Send + 'static,
        input: impl Read + Send + 'static,
        variables: BTreeMap<&'static str, OsString>,
        default_key_file: PathBuf,
    ) -> Self {
        Self {
            output: Box::new(output),
            messages: Box::new(messages),
            input: Box::new(input),
            input_is_terminal: false,
            variables,
            default_key_file,
        }
    }
}
