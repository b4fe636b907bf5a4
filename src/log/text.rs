//! A line as text, on standard error.

use core::fmt::{self, Write};

use super::Level;
use crate::sys;

/// Bytes of the longest line, its end included.
const LINE: usize = 512;

/// Write one line to standard error. The macros call it; nobody else needs to.
pub fn line(level: Level, text: fmt::Arguments<'_>) {
    let mut line = Line::new();
    line.compose(level, sys::time::wall(), text);
    // A log that nobody can read is no reason to stop.
    let _ = sys::io::write(2, line.bytes());
}

/// Give the word that stands in a line, padded.
const fn word(level: Level) -> &'static str {
    match level {
        Level::Error => "ERROR",
        Level::Warn => "WARN ",
        Level::Info => "INFO ",
        Level::Debug => "DEBUG",
    }
}

/// Collect a line; what does not fit is dropped and remembered.
struct Line {
    bytes: [u8; LINE],
    len: usize,
    cut: bool,
}

/// What a cut line ends in.
const CUT: &[u8] = b"...\n";

impl Line {
    const fn new() -> Self {
        Self {
            bytes: [0; LINE],
            len: 0,
            cut: false,
        }
    }

    fn compose(&mut self, level: Level, (seconds, nanoseconds): (i64, u32), text: fmt::Arguments) {
        let (year, month, day) = civil(seconds.div_euclid(86_400));
        let second = seconds.rem_euclid(86_400);
        // The buffer takes everything, cut where needed; the arguments' own errors leave what was written.
        let _ = write!(
            self,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z {} ",
            second / 3600,
            second / 60 % 60,
            second % 60,
            nanoseconds / 1000,
            word(level),
        );
        let _ = self.write_fmt(text);
        if self.cut {
            self.bytes[LINE - CUT.len()..].copy_from_slice(CUT);
            self.len = LINE;
        } else {
            self.bytes[self.len] = b'\n';
            self.len += 1;
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = LINE - CUT.len() - self.len;
        let taken = text.len().min(room);
        let bytes = &text.as_bytes()[..taken];
        for (to, &from) in self.bytes[self.len..].iter_mut().zip(bytes) {
            // One event is one line, whatever a host put into a name.
            *to = if from < b' ' { b'?' } else { from };
        }
        self.len += taken;
        self.cut |= taken < text.len();
        Ok(())
    }
}

/// Turn days since 1970-01-01 into year, month and day of the Gregorian calendar.
///
/// Counts from 1 March of year 0, where a 400-year era has 146,097 days and the leap day comes last.
const fn civil(days: i64) -> (i64, u8, u8) {
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month as u8, of_month as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn composed(text: fmt::Arguments) -> Line {
        let mut line = Line::new();
        line.compose(Level::Warn, (951_782_399, 123_456_789), text);
        line
    }

    #[test]
    fn a_line_has_time_level_and_text() {
        let line = composed(format_args!("queue {}", 3));
        assert_eq!(
            core::str::from_utf8(line.bytes()).unwrap(),
            "2000-02-28T23:59:59.123456Z WARN  queue 3\n"
        );
    }

    #[test]
    fn a_long_line_is_cut_and_says_so() {
        let long = [b'a'; LINE];
        let line = composed(format_args!("{}", core::str::from_utf8(&long).unwrap()));
        assert_eq!(line.bytes().len(), LINE);
        assert!(line.bytes().ends_with(b"a...\n"));
        let rest = LINE - CUT.len() - composed(format_args!("")).bytes().len();
        let line = composed(format_args!(
            "{}",
            core::str::from_utf8(&long[..rest]).unwrap()
        ));
        assert!(line.bytes().ends_with(b"aa\n"), "what fits is not cut");
    }

    #[test]
    fn a_name_cannot_forge_a_line() {
        let line = composed(format_args!("{}", "x\n2000 ERROR\x1b[2J"));
        assert!(line.bytes().ends_with(b"x?2000 ERROR?[2J\n"));
    }

    #[test]
    fn the_calendar_knows_leap_years() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(-1), (1969, 12, 31));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(11_017), (2000, 3, 1));
        assert_eq!(civil(47_541), (2100, 3, 1));
        assert_eq!(civil(47_540), (2100, 2, 28));
    }
}
