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
//! With feature `defmt` a line is not formatted at all: the number of its text and its raw arguments go into a ring in
//! shared memory (`sys::log_ring`), and `dpfs log` makes text of it later, somewhere else.
//!
//! Keep to the format strings that deferred logging knows, too: positional `{}`, `{:?}`, `{:x}`, `{:#x}` and widths
//! like `{:08x}`; no inlined names. Arguments are integers, `bool`, `&str` and [`Errno`](crate::wire::errno::Errno);
//! what else implements `Display` or `Debug` goes through [`Show`] or [`Debugged`].

#[cfg(not(feature = "defmt"))]
mod text;

use core::fmt;
use core::sync::atomic::{AtomicU8, Ordering};

#[cfg(not(feature = "defmt"))]
#[doc(hidden)]
pub use text::line;

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

/// Wrap a value that has a `Debug` and nothing else, so that both kinds of log take it.
pub struct Debugged<'a, T: ?Sized>(pub &'a T);

impl<T: fmt::Debug + ?Sized> fmt::Display for Debugged<'_, T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

#[cfg(feature = "defmt")]
impl<T: fmt::Debug + ?Sized> defmt::Format for Debugged<'_, T> {
    fn format(&self, out: defmt::Formatter<'_>) {
        defmt::Debug2Format(self.0).format(out);
    }
}

#[cfg(feature = "defmt")]
impl<T: fmt::Display + ?Sized> defmt::Format for Show<'_, T> {
    fn format(&self, out: defmt::Formatter<'_>) {
        defmt::Display2Format(self.0).format(out);
    }
}

#[cfg(feature = "defmt")]
#[doc(hidden)]
pub use defmt as deferred;

#[cfg(not(feature = "defmt"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __log {
    ($level:ident, $macro:ident, $($text:tt)+) => {
        if $crate::log::enabled($crate::log::Level::$level) {
            $crate::log::line($crate::log::Level::$level, ::core::format_args!($($text)+));
        }
    };
}

#[cfg(feature = "defmt")]
#[doc(hidden)]
#[macro_export]
macro_rules! __log {
    ($level:ident, $macro:ident, $($text:tt)+) => {
        if $crate::log::enabled($crate::log::Level::$level) {
            $crate::log::deferred::$macro!($($text)+);
        }
    };
}

/// Log what is broken and stays broken until somebody acts.
#[macro_export]
#[doc(hidden)]
macro_rules! __error { ($($text:tt)+) => { $crate::__log!(Error, error, $($text)+) }; }

/// Log what went wrong and was dealt with.
#[macro_export]
#[doc(hidden)]
macro_rules! __warn { ($($text:tt)+) => { $crate::__log!(Warn, warn, $($text)+) }; }

/// Log an event of a device's life.
#[macro_export]
#[doc(hidden)]
macro_rules! __info { ($($text:tt)+) => { $crate::__log!(Info, info, $($text)+) }; }

/// Log what a developer wants to see.
#[macro_export]
#[doc(hidden)]
macro_rules! __debug { ($($text:tt)+) => { $crate::__log!(Debug, debug, $($text)+) }; }

#[doc(inline)]
pub use crate::{__debug as debug, __error as error, __info as info, __warn as warn};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_lets_through_what_is_more_severe() {
        assert!(enabled(Level::Error) && enabled(Level::Info));
        assert!(!enabled(Level::Debug));
        crate::log::debug!("{} is not written", 1);
    }
}
