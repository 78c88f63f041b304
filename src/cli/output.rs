//! How an answer is shown: a listing for people, JSON for machines, or one field alone.

mod answer;
mod record;
mod table;

use std::fmt::Write as _;

use clap::{Args, ValueEnum};

pub(crate) use answer::Answer;
pub(crate) use record::{Record, Value, rfc3339};
pub(crate) use table::table;

use super::{
    console::Console,
    escape::{escaped, escaped_json},
    exit::{Exit, Failure},
};

/// How to show the answer.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// For people, or for machines: JSON as protojson writes it
    #[arg(short, long, global = true, value_name = "FORMAT", value_enum, default_value_t = Format::Table, conflicts_with = "field")]
    output: Format,

    /// Print this field of the answer alone, such as `id`, `etag` or, of a new key, `key`
    #[arg(long, global = true, value_name = "NAME")]
    field: Option<String>,
}

/// For whom the answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table or a listing
    Table,
    /// Proto JSON
    Json,
}

/// How an answer is to be shown, checked against what the answer will hold.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// An aligned listing, or a table.
    People,
    /// Proto JSON.
    Json,
    /// This field alone.
    Field(String),
}

impl OutputArgs {
    /// The form in which to show an `A`.
    ///
    /// Called before the service is: a field that the answer lacks must be known before a secret was made for it.
    pub(crate) fn form<A: Answer>(&self) -> Result<Form, Failure> {
        let Some(field) = &self.field else {
            return Ok(if self.output == Format::Json { Form::Json } else { Form::People });
        };
        let sample = A::sample();
        let names = sample.names();
        if names.contains(&field.as_str()) {
            return Ok(Form::Field(field.clone()));
        }
        Err(Failure::new(Exit::Usage, format!("this answer has no field `{field}`"))
            .line(format!("it has: {}", names.join(", "))))
    }
}

impl Form {
    /// `record` in this form, with its last line end.
    pub(crate) fn render(&self, record: &Record) -> String {
        match self {
            Self::People => listing(record),
            Self::Json => json(record),
            Self::Field(name) => format!("{}\n", field(record, name)),
        }
    }

    /// Whether the field `name` can be seen in this form.
    pub(crate) fn shows(&self, name: &str) -> bool {
        !matches!(self, Self::Field(field) if field != name)
    }
}

/// Shows `answer` in this form.
pub(crate) fn show(console: &mut Console, form: &Form, answer: &impl Answer) -> Result<(), Failure> {
    console.show(&form.render(&answer.record()))
}

/// Shows all of `answers`: a table, an array, or one line each.
pub(crate) fn show_all(
    console: &mut Console,
    form: &Form,
    answers: &[crate::grpc::proto::ApiKey],
) -> Result<(), Failure> {
    let records = || answers.iter().map(Answer::record);
    let text = match form {
        Form::People => table(answers),
        Form::Json => json(&records().collect::<Vec<_>>()),
        Form::Field(_) => records().map(|record| form.render(&record)).collect(),
    };
    console.show(&text)
}

fn json(value: &impl serde::Serialize) -> String {
    // Texts and maps with text keys always have a JSON form.
    let json = serde_json::to_string_pretty(value).unwrap_or_default();
    escaped_json(&format!("{json}\n"))
}

fn field(record: &Record, name: &str) -> String {
    let value = record.find(name).and_then(Value::text).unwrap_or_default();
    escaped(&value).into_owned()
}

fn listing(record: &Record) -> String {
    let lines = record.lines();
    let width = lines.iter().map(|(name, _)| name.len() + 1).max().unwrap_or(0);
    let mut out = String::new();
    for (name, text) in lines {
        // Writing to a String does not fail.
        let _ = writeln!(out, "{:width$} {}", format!("{name}:"), escaped(&text));
    }
    out
}
