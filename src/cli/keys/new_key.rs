//! Showing a key string that is shown this once.

use crate::cli::{
    console::Console,
    escape::escaped,
    exit::{Exit, Failure},
    output::{Answer, Form},
};

/// An answer that holds a new key string.
pub(super) struct NewKey<'a, A> {
    pub(super) answer: &'a A,
    pub(super) key: &'a str,
    pub(super) replayed: bool,
    pub(super) request_id: &'a str,
    /// Whether the key string is in the caller's key file by now.
    pub(super) kept: bool,
}

impl<A: Answer> NewKey<'_, A> {
    /// Shows the answer in `form`, and warns that the key string is not shown again.
    ///
    /// With `at_all_costs` the key string is shown although `form` leaves it out: there is no other copy.
    pub(super) fn show(&self, console: &mut Console, form: &Form, at_all_costs: bool) -> Result<(), Failure> {
        self.write(console, &form.render(&self.answer.record()))?;
        if at_all_costs && !form.shows("key") {
            self.write(console, &format!("{}\n", escaped(self.key)))?;
        }
        if self.replayed {
            console.tell("note: this request had done its work before; this is its answer again");
        }
        if form.shows("key") || at_all_costs {
            console.tell("warning: the key string is shown once and cannot be read again; keep it in a safe place");
        } else if !self.kept {
            console.tell(format!(
                "warning: a key string was made and not shown; within 15 minutes the same command with --field key\n  \
                 --request-id {} shows it, after that nobody can",
                escaped(self.request_id)
            ));
        }
        Ok(())
    }

    /// Here, a pipe that nobody reads is a failure like any other: the only copy of the secret went into it.
    fn write(&self, console: &mut Console, text: &str) -> Result<(), Failure> {
        console.write(text).map_err(|error| {
            Failure::new(
                Exit::Fault,
                format!("a key string was made, but could not be written to standard output: {error}"),
            )
            .line("The same command shows it again, and makes no second one, within 15 minutes with:")
            .line(format!("--request-id {}", self.request_id))
        })
    }
}
