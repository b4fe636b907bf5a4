//! What is wrong with a configuration: file, line, key, what was found, what is allowed.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::string::String;
use std::vec::Vec;

/// Name one thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The key with its tables, like `device[0].hal.depth`; empty when the text is not TOML there.
    pub key: String,
    /// What was found and what is allowed.
    pub what: String,
}

/// Name everything that is wrong with a configuration file. Never empty.
#[derive(Clone, Debug)]
pub struct ConfigError {
    /// The file's name, as given.
    pub file: String,
    /// In the order of the text.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(out)?;
            }
            write!(out, "{}:{}:{}: ", self.file, problem.line, problem.column)?;
            if !problem.key.is_empty() {
                write!(out, "{}: ", problem.key)?;
            }
            write!(out, "{}", problem.what)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Collect problems while a text is read.
pub(super) struct Problems<'a> {
    text: &'a str,
    found: RefCell<Vec<(usize, Problem)>>,
}

/// Longest piece of the text that a message repeats, in characters.
const QUOTE: usize = 60;

impl<'a> Problems<'a> {
    pub const fn new(text: &'a str) -> Self {
        Self {
            text,
            found: RefCell::new(Vec::new()),
        }
    }

    /// Note a problem at a place of the text.
    pub fn add(&self, span: &Range<usize>, key: &str, what: impl Into<String>) {
        let (line, column) = self.position(span.start);
        let problem = Problem {
            line,
            column,
            key: key.into(),
            what: what.into(),
        };
        self.found.borrow_mut().push((span.start, problem));
    }

    /// Note a value that is not among the allowed ones.
    pub fn refuse(&self, span: &Range<usize>, key: &str, allowed: &str) {
        let found = self.quote(span);
        self.add(span, key, format!("found {found}; allowed: {allowed}"));
    }

    /// Give the piece of the text, on one line and not too long.
    pub fn quote(&self, span: &Range<usize>) -> String {
        let piece = self.text.get(span.clone()).unwrap_or_default();
        let mut quote: String = piece
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(QUOTE)
            .collect();
        if quote.len() < piece.len() {
            quote.push_str("...");
        }
        quote
    }

    /// Give line and column of a byte offset.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (
            before.matches('\n').count() + 1,
            before[line_start..].chars().count() + 1,
        )
    }

    /// Turn what was found into an error, if anything was.
    pub fn into_result<T>(self, file: &str, value: Option<T>) -> Result<T, ConfigError> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|(offset, _)| *offset);
        match value {
            Some(value) if found.is_empty() => Ok(value),
            _ => Err(ConfigError {
                file: file.into(),
                problems: found.into_iter().map(|(_, problem)| problem).collect(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn positions_count_lines_and_characters() {
        let problems = Problems::new("a = 1\n\u{e4}\u{e4} = 2\n");
        assert_eq!(problems.position(0), (1, 1));
        assert_eq!(problems.position(6), (2, 1));
        assert_eq!(problems.position(10), (2, 3));
        assert_eq!(problems.position(11), (2, 4));
        assert_eq!(problems.position(999), (3, 1), "past the end is the end");
    }

    #[test]
    fn problems_come_in_the_order_of_the_text() {
        let problems = Problems::new("a\nb");
        problems.add(&(2..3), "y", "second");
        problems.add(&(0..1), "x", "first");
        let error = problems.into_result("f.toml", Some(())).unwrap_err();
        assert_eq!(
            error.to_string(),
            "f.toml:1:1: x: first\nf.toml:2:1: y: second"
        );
    }

    #[test]
    fn a_quote_is_short_and_one_line() {
        let text = "x".repeat(100) + "\ny";
        let problems = Problems::new(&text);
        assert_eq!(problems.quote(&(0..100)).len(), QUOTE + 3);
        assert_eq!(problems.quote(&(99..102)), "x y");
    }
}
