//! Collecting what is wrong with a request, so that all of it is told at once.
//!
//! Every text of a request passes through [`Fields::read`], which refuses key strings before anything else looks at
//! the value: what is echoed in a message has been screened.

use std::fmt::Display;

use super::{
    error::{Error, Result, Violation},
    key_string::KeyFormat,
};

/// What is wrong with a field that holds a key string.
pub const KEY_STRING_FOUND: &str =
    "holds a key string, which belongs into no field but `key`; treat that key as leaked";

/// Gathers violations while a request is read.
pub struct Fields<'a> {
    format: &'a KeyFormat,
    violations: Vec<Violation>,
    found_key_string: bool,
}

impl<'a> Fields<'a> {
    /// Begins with nothing wrong. `format` tells what a key string of this deployment looks like.
    pub fn new(format: &'a KeyFormat) -> Self {
        Self { format, violations: Vec::new(), found_key_string: false }
    }

    /// Reads `text` with `parse`, whose error says what is wrong and what would be right.
    ///
    /// A text that holds a key string, whole or cut, is refused without being parsed or echoed.
    pub fn read<T>(
        &mut self,
        field: impl Display,
        text: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        if self.format.occurs_in(text) {
            self.refuse(field, KEY_STRING_FOUND);
            self.found_key_string = true;
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

    /// Refuses a whole request that holds a key string in a text that was not read. `encoded` is the request as bytes, so
    /// that no text can be forgotten.
    pub fn screen(&mut self, encoded: &[u8]) {
        if !self.found_key_string && self.format.occurs_in(encoded) {
            self.refuse("request", KEY_STRING_FOUND);
            self.found_key_string = true;
        }
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
