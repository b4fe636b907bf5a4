//! A typed reader over a parsed TOML document that remembers where everything stands.
//!
//! A [`Section`] is a table with the keys it may have; a [`Field`] is one value. A getter that does not find what it
//! should notes the problem and gives `None`, so that reading goes on and every problem is named in one run.

use std::ops::{Range, RangeInclusive};
use std::string::String;
use std::vec::Vec;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Problems;
use super::units;

/// Hold one table.
pub(super) struct Section<'a> {
    problems: &'a Problems<'a>,
    /// The table's key with a final dot; empty at the top.
    prefix: String,
    span: Range<usize>,
    table: &'a DeTable<'a>,
}

impl<'a> Section<'a> {
    /// Take up the document's top.
    pub fn top(problems: &'a Problems<'a>, root: &'a Spanned<DeTable<'a>>) -> Self {
        Self {
            problems,
            prefix: String::new(),
            span: 0..0,
            table: root.get_ref(),
        }
    }

    /// Note every key that is not among `allowed`.
    pub fn only(&self, allowed: &[&str]) {
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if allowed.contains(&name) {
                continue;
            }
            let mut what = String::from("unknown key");
            if let Some(near) = nearest(name, allowed) {
                what.push_str(&format!("; did you mean `{near}`?"));
            }
            what.push_str(&format!("; allowed: {}", allowed.join(", ")));
            self.problems
                .add(&key.span(), &format!("{}{name}", self.prefix), what);
        }
    }

    /// Get a value that may be absent.
    pub fn get(&self, key: &str) -> Option<Field<'a>> {
        self.table.get(key).map(|value| Field {
            problems: self.problems,
            key: format!("{}{key}", self.prefix),
            value,
        })
    }

    /// Get all keys with their values.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, Field<'a>)> {
        self.table.iter().map(|(key, value)| {
            let name: &str = key.get_ref();
            let key = format!("{}{name}", self.prefix);
            let problems = self.problems;
            (
                name,
                Field {
                    problems,
                    key,
                    value,
                },
            )
        })
    }

    /// Get a value that must be there; `allowed` says what it should be.
    pub fn need(&self, key: &str, allowed: &str) -> Option<Field<'a>> {
        let field = self.get(key);
        if field.is_none() {
            let key = format!("{}{key}", self.prefix);
            self.problems
                .add(&self.span, &key, format!("missing; allowed: {allowed}"));
        }
        field
    }
}

/// Hold one value.
pub(super) struct Field<'a> {
    problems: &'a Problems<'a>,
    pub key: String,
    value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Field<'a> {
    /// Give where the value stands.
    pub fn span(&self) -> Range<usize> {
        self.value.span()
    }

    /// Note that the value is not what is `allowed`.
    pub fn refuse<T>(&self, allowed: &str) -> Option<T> {
        self.problems.refuse(&self.span(), &self.key, allowed);
        None
    }

    /// Read a truth value.
    pub fn flag(&self) -> Option<bool> {
        let flag = self.value.get_ref().as_bool();
        flag.or_else(|| self.refuse("true, false"))
    }

    /// Read a string that `good` accepts; `allowed` says what that is.
    pub fn text(&self, allowed: &str, good: impl Fn(&str) -> bool) -> Option<&'a str> {
        let text = self.value.get_ref().as_str().filter(|text| good(text));
        text.or_else(|| self.refuse(allowed))
    }

    /// Read one of several names.
    pub fn choice<T: Copy>(&self, names: &[(&str, T)]) -> Option<T> {
        let found = self.value.get_ref().as_str();
        let chosen = names.iter().find(|(name, _)| Some(*name) == found);
        if let Some((_, value)) = chosen {
            return Some(*value);
        }
        let names: Vec<_> = names.iter().map(|(name, _)| *name).collect();
        let quoted: Vec<_> = names.iter().map(|name| format!("\"{name}\"")).collect();
        let mut allowed = quoted.join(", ");
        if let Some(near) = found.and_then(|found| nearest(found, &names)) {
            allowed.push_str(&format!("; did you mean \"{near}\"?"));
        }
        self.refuse(&allowed)
    }

    /// Read a count within a range.
    pub fn count(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let count = self.integer().filter(|count| range.contains(count));
        count.or_else(|| self.refuse(&format!("{} to {}", range.start(), range.end())))
    }

    /// Read a power of two within a range.
    pub fn power_of_two(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let count = self.integer();
        let count = count.filter(|count| range.contains(count) && count.is_power_of_two());
        count.or_else(|| {
            let (low, high) = range.into_inner();
            self.refuse(&format!("a power of two from {low} to {high}"))
        })
    }

    /// Read a size in bytes within a range: an integer, or a string with a unit.
    pub fn size(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let size = match self.value.get_ref().as_str() {
            Some(text) => units::size(text),
            None => self.integer(),
        };
        size.filter(|size| range.contains(size)).or_else(|| {
            self.refuse(&format!(
                "{} to {} ({})",
                units::exact_size(*range.start()),
                units::exact_size(*range.end()),
                units::SIZE_FORM
            ))
        })
    }

    /// Read a duration within a range, in nanoseconds.
    pub fn duration(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let duration = self.value.get_ref().as_str().and_then(units::duration);
        let duration = duration.filter(|duration| range.contains(duration));
        duration.or_else(|| {
            self.refuse(&format!(
                "{} to {} ({})",
                units::exact_duration(*range.start()),
                units::exact_duration(*range.end()),
                units::DURATION_FORM
            ))
        })
    }

    /// Tell whether the value is an array.
    pub fn is_list(&self) -> bool {
        self.value.get_ref().as_array().is_some()
    }

    /// Read the elements of an array; `allowed` says what it should be.
    pub fn elements(&self, allowed: &str) -> Option<Vec<Field<'a>>> {
        let Some(array) = self.value.get_ref().as_array() else {
            return self.refuse(allowed);
        };
        let element = |(index, value)| Field {
            problems: self.problems,
            key: format!("{}[{index}]", self.key),
            value,
        };
        Some(array.iter().enumerate().map(element).collect())
    }

    /// Read a table; `allowed` says what it should be.
    pub fn section(&self, allowed: &str) -> Option<Section<'a>> {
        let Some(table) = self.value.get_ref().as_table() else {
            return self.refuse(allowed);
        };
        Some(Section {
            problems: self.problems,
            prefix: format!("{}.", self.key),
            span: self.span(),
            table,
        })
    }

    fn integer(&self) -> Option<u64> {
        let integer = self.value.get_ref().as_integer()?;
        u64::from_str_radix(integer.as_str(), integer.radix()).ok()
    }
}

/// Find the name that a mistyped one most probably means.
fn nearest<'n>(name: &str, names: &[&'n str]) -> Option<&'n str> {
    names
        .iter()
        .map(|&known| (strsim::damerau_levenshtein(name, known), known))
        .min()
        .filter(|(distance, known)| *distance <= 1 + known.len() / 3)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    fn messages(text: &str, read: impl Fn(&Section)) -> String {
        let problems = Problems::new(text);
        let root = DeTable::parse(text).unwrap();
        read(&Section::top(&problems, &root));
        match problems.into_result("f", Some(())) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn an_unknown_key_suggests_the_nearest() {
        let read = |section: &Section| section.only(&["cores", "polling"]);
        assert_eq!(
            messages("coers = 1", read),
            "f:1:1: coers: unknown key; did you mean `cores`?; allowed: cores, polling"
        );
        assert_eq!(
            messages("zzzzzz = 1", read),
            "f:1:1: zzzzzz: unknown key; allowed: cores, polling"
        );
    }

    #[test]
    fn a_bad_choice_lists_the_good_ones() {
        let names = [("busy", 1), ("sleep", 2)];
        assert_eq!(
            messages("p = \"bsy\"", |top| assert_eq!(
                top.get("p").unwrap().choice(&names),
                None
            )),
            "f:1:5: p: found \"bsy\"; allowed: \"busy\", \"sleep\"; did you mean \"busy\"?"
        );
        assert_eq!(
            messages("\np = 3", |top| assert_eq!(
                top.get("p").unwrap().choice(&names),
                None
            )),
            "f:2:5: p: found 3; allowed: \"busy\", \"sleep\""
        );
    }

    #[test]
    fn numbers_keep_to_their_range() {
        for (text, good) in [
            ("1", true),
            ("0x10", true),
            ("17", false),
            ("-1", false),
            ("1.0", false),
        ] {
            let text = format!("n = {text}");
            let message = messages(&text, |top| {
                assert_eq!(top.get("n").unwrap().count(1..=16).is_some(), good);
            });
            assert_eq!(message.is_empty(), good, "{message}");
            assert_eq!(message.ends_with("allowed: 1 to 16"), !good);
        }
        assert_eq!(
            messages("n = 48", |top| assert_eq!(
                top.get("n").unwrap().power_of_two(2..=64),
                None
            )),
            "f:1:5: n: found 48; allowed: a power of two from 2 to 64"
        );
    }

    #[test]
    fn a_missing_key_is_named_with_its_table() {
        let message = messages("[a]\nx = 1\n", |top| {
            let section = top.get("a").unwrap().section("a table").unwrap();
            assert!(section.need("path", "an absolute path").is_none());
        });
        assert_eq!(message, "f:1:1: a.path: missing; allowed: an absolute path");
    }
}
