//! Error numbers as the host sees them.
//!
//! The numbers are those of Linux `asm-generic/errno.h`, which x86_64 and aarch64 share; no other host architecture
//! can be configured ([`crate::wire::open_flags::ClientArch`]).

/// Hold one host error number, always positive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(u16);

macro_rules! errnos {
    ($($name:ident = $value:literal),* $(,)?) => {
        impl Errno {
            $(
                #[doc = concat!("Linux `", stringify!($name), "`, ", stringify!($value), ".")]
                pub const $name: Self = Self($value);
            )*

            /// Name the number, `"E?"` for one that is not in the table.
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($value => stringify!($name),)*
                    _ => "E?",
                }
            }
        }
    };
}

errnos! {
    EPERM = 1, ENOENT = 2, EINTR = 4, EIO = 5, ENXIO = 6, E2BIG = 7, EBADF = 9, EAGAIN = 11, ENOMEM = 12,
    EACCES = 13, EBUSY = 16, EEXIST = 17, EXDEV = 18, ENODEV = 19, ENOTDIR = 20, EISDIR = 21, EINVAL = 22,
    ENFILE = 23, EMFILE = 24, ENOTTY = 25, ETXTBSY = 26, EFBIG = 27, ENOSPC = 28, ESPIPE = 29, EROFS = 30,
    EMLINK = 31, EPIPE = 32, ERANGE = 34, EDEADLK = 35, ENAMETOOLONG = 36, ENOLCK = 37, ENOSYS = 38,
    ENOTEMPTY = 39, ELOOP = 40, ENODATA = 61, EREMOTE = 66, EPROTO = 71, EOVERFLOW = 75, EOPNOTSUPP = 95, ENETUNREACH = 101,
    ECONNABORTED = 103, ECONNRESET = 104, ENOTCONN = 107, ETIMEDOUT = 110, ECONNREFUSED = 111, EHOSTUNREACH = 113,
    ESTALE = 116, EDQUOT = 122, ECANCELED = 125,
}

impl Errno {
    /// Take the number that a system call of this machine returned.
    ///
    /// Zero, negative and absurd numbers become `EIO`: an error must never look like a success to the host.
    pub const fn from_os(number: i32) -> Self {
        if number <= 0 || number > 4095 {
            return Self::EIO;
        }
        Self(number as u16)
    }

    /// Give the positive number.
    pub const fn get(self) -> i32 {
        self.0 as i32
    }
}

impl core::fmt::Debug for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}

impl core::fmt::Display for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Debug::fmt(self, f)
    }
}

#[cfg(feature = "defmt")]
impl defmt::Format for Errno {
    fn format(&self, out: defmt::Formatter<'_>) {
        defmt::write!(out, "{=str}({=u16})", self.name(), self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::Errno;

    #[test]
    fn matches_this_machine() {
        assert_eq!(Errno::ESTALE.get(), libc::ESTALE);
        assert_eq!(Errno::EOPNOTSUPP.get(), libc::EOPNOTSUPP);
        assert_eq!(Errno::ENODATA.get(), libc::ENODATA);
        assert_eq!(Errno::EDQUOT.get(), libc::EDQUOT);
    }

    #[test]
    fn an_absurd_number_is_an_error_all_the_same() {
        for number in [0, -2, i32::MIN, 4096, i32::MAX] {
            assert_eq!(Errno::from_os(number), Errno::EIO);
        }
    }
}
