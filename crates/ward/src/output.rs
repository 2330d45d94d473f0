//! Tables for people, JSON for scripts.

use std::io::{self, Write as _};

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use ward_types::Problem;

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Table,
    /// For scripts.
    Json,
}

impl Output {
    /// Prints a result.
    pub(crate) fn show<T: Serialize>(self, value: &T, text: impl FnOnce() -> String) -> Result<(), Problem> {
        match self {
            Self::Table => print_text(text().trim_end()),
            Self::Json => {
                let json = serde_json::to_string_pretty(value)
                    .map_err(|error| Problem::internal("cannot print the result", error))?;
                print_text(&json)
            }
        }
    }

    /// Says that something was done of which there is nothing to tell.
    pub(crate) fn note(self, text: &str) -> Result<(), Problem> {
        self.show(&(), || text.to_owned())
    }

    /// Prints an error.
    pub(crate) fn problem(self, problem: &Problem) {
        let text = match self {
            Self::Json => serde_json::to_string_pretty(problem).unwrap_or_else(|_| problem.to_string()),
            Self::Table => {
                let Problem { code, what, why, remedy } = problem;
                format!("error: {what}\n  why: {why}\n  next: {remedy}\n  code: {code}")
            }
        };
        eprintln!("{text}");
    }
}

/// Prints a line. A reader that has gone (`| head`) is no error.
pub(crate) fn print_text(text: &str) -> Result<(), Problem> {
    print_raw(text).and_then(|()| print_raw("\n"))
}

/// Prints as it is.
pub(crate) fn print_raw(text: &str) -> Result<(), Problem> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.map_err(|error| Problem::internal("cannot print the result", error)),
    }
}

/// How many of how many are done: to people at a terminal.
pub(crate) fn counting_bar(what: String) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len} {eta}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(what);
    bar
}

/// A table with these columns.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.iter().map(|name| name.to_uppercase()));
    let mut empty = true;
    for row in rows {
        table.add_row(row);
        empty = false;
    }
    if empty { "(none)".to_owned() } else { trimmed(&table.to_string()) }
}

/// Names and values, one a line.
pub(crate) fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 2;
    fields
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| {
            // Further lines of a value stand under its first.
            let value = value.replace('\n', &format!("\n{:width$}", ""));
            format!("{:width$}{value}", format!("{name}:"))
        })
        .collect::<Vec<_>>()
        .join("\n")
}

fn trimmed(text: &str) -> String {
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}
