//! Log lines: four macros that work in every layer, with or without `std`, and never allocate.
//!
//! ```text
//! crate::log::info!("device {}: host connected, {} queues", tag, queues);
//! ```
//!
//! A line is formatted into a fixed buffer on the stack and leaves with one write(2) to standard error, so lines of
//! several cores never mix. What does not fit is cut and ends in `...`. A line below the level that was set costs one
//! load and one branch. Logging is for events of a device's life; the path of a request counts instead.
//!
//! Keep to the format strings that deferred logging knows, too: positional `{}`, `{:?}`, `{:x}`, `{:#x}` and widths
//! like `{:08x}`; no inlined names. Arguments are integers, `bool`, `&str` and this crate's own small types; anything
//! else that implements `Display` goes through [`Show`].

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU8, Ordering};

use crate::sys;

/// Bytes of the longest line, its end included.
pub const LINE: usize = 512;

/// Rank a line. A level lets through itself and what is more severe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Something is broken and stays broken until somebody acts.
    Error = 1,
    /// Something went wrong and was dealt with.
    Warn = 2,
    /// A device's life: started, connected, stopped.
    Info = 3,
    /// What a developer wants to see.
    Debug = 4,
}

impl Level {
    /// List the levels from the most severe on, as the configuration names them.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
    ];

    const fn word(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Warn => "WARN ",
            Self::Info => "INFO ",
            Self::Debug => "DEBUG",
        }
    }
}

static LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);

/// Let through lines of `level` and of those more severe. [`Level::Info`] until called.
pub fn set_level(level: Level) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// Tell whether a line of `level` is let through.
#[inline]
pub fn enabled(level: Level) -> bool {
    level as u8 <= LEVEL.load(Ordering::Relaxed)
}

/// Wrap a value that has a `Display` and nothing else, so that both kinds of log take it.
pub struct Show<'a, T: ?Sized>(pub &'a T);

impl<T: fmt::Display + ?Sized> fmt::Display for Show<'_, T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// Write one line to standard error. The macros call it; nobody else needs to.
#[doc(hidden)]
pub fn line(level: Level, text: fmt::Arguments<'_>) {
    let mut line = Line::new();
    line.compose(level, sys::time::wall(), text);
    // A log that nobody can read is no reason to stop.
    let _ = sys::io::write(2, line.bytes());
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
            level.word(),
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

#[doc(hidden)]
#[macro_export]
macro_rules! __log {
    ($level:ident, $($text:tt)+) => {
        if $crate::log::enabled($crate::log::Level::$level) {
            $crate::log::line($crate::log::Level::$level, ::core::format_args!($($text)+));
        }
    };
}

/// Log what is broken and stays broken until somebody acts.
#[macro_export]
#[doc(hidden)]
macro_rules! __error { ($($text:tt)+) => { $crate::__log!(Error, $($text)+) }; }

/// Log what went wrong and was dealt with.
#[macro_export]
#[doc(hidden)]
macro_rules! __warn { ($($text:tt)+) => { $crate::__log!(Warn, $($text)+) }; }

/// Log an event of a device's life.
#[macro_export]
#[doc(hidden)]
macro_rules! __info { ($($text:tt)+) => { $crate::__log!(Info, $($text)+) }; }

/// Log what a developer wants to see.
#[macro_export]
#[doc(hidden)]
macro_rules! __debug { ($($text:tt)+) => { $crate::__log!(Debug, $($text)+) }; }

#[doc(inline)]
pub use crate::{__debug as debug, __error as error, __info as info, __warn as warn};

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

    #[test]
    fn a_level_lets_through_what_is_more_severe() {
        assert!(enabled(Level::Error) && enabled(Level::Info));
        assert!(!enabled(Level::Debug));
        crate::log::debug!("{} is not written", 1);
    }
}
