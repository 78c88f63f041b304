//! Collecting what is wrong with a request, so that all of it is told at once.
//!
//! Every text of a request passes through [`Fields::read`], which refuses key strings before anything else looks at
//! the value: what is echoed in a message has been screened.

use std::fmt::Display;

use super::{
    error::{Error, Result, Violation},
    key_string::KeyFormat,
};

/// Gathers violations while a request is read.
pub struct Fields<'a> {
    format: &'a KeyFormat,
    violations: Vec<Violation>,
}

impl<'a> Fields<'a> {
    /// Begins with nothing wrong. `format` tells what a key string of this deployment looks like.
    pub fn new(format: &'a KeyFormat) -> Self {
        Self { format, violations: Vec::new() }
    }

    /// Reads `text` with `parse`, whose error says what is wrong and what would be right.
    ///
    /// A text that holds a key string is refused without being parsed or echoed.
    pub fn read<T>(
        &mut self,
        field: impl Display,
        text: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        if self.format.occurs_in(text) {
            self.refuse(field, "holds a key string, which belongs into no field but `key`; treat that key as leaked");
            return None;
        }
        match parse(text) {
            Ok(value) => Some(value),
            Err(description) => {
                self.refuse(field, description);
                None
            }
        }
    }

    /// Notes that `field` is wrong.
    pub fn refuse(&mut self, field: impl Display, description: impl Into<String>) {
        self.violations.push(Violation { field: field.to_string(), description: description.into() });
    }

    /// Whether anything was wrong so far.
    pub fn has_violations(&self) -> bool {
        !self.violations.is_empty()
    }

    /// Notes what was found wrong elsewhere.
    pub fn extend(&mut self, violations: Vec<Violation>) {
        self.violations.extend(violations);
    }

    /// The value, if nothing was wrong with anything.
    ///
    /// # Errors
    /// [`Error::Invalid`] with all that was wrong.
    pub fn finish<T>(self, value: Option<T>) -> Result<T> {
        match value {
            Some(value) if self.violations.is_empty() => Ok(value),
            _ if self.violations.is_empty() => Err(Error::fault("a field was refused without a word")),
            _ => Err(Error::Invalid(self.violations)),
        }
    }
}
