//! Operation numbers (`enum fuse_opcode`).

macro_rules! opcodes {
    ($($(#[$doc:meta])* $name:ident = $value:literal),* $(,)?) => {
        /// Name an operation.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum Opcode {
            $($(#[$doc])* $name = $value,)*
        }

        impl Opcode {
            /// List every operation, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Find the operation with this number.
            #[inline]
            pub fn new(number: u32) -> Option<Self> {
                const TABLE: [Option<Opcode>; OPCODE_COUNT] = {
                    let mut table = [None; OPCODE_COUNT];
                    $(table[$value] = Some(Opcode::$name);)*
                    table
                };
                TABLE.get(number as usize).copied().flatten()
            }

            /// Tell whether the host waits for no answer to this operation.
            #[inline(always)]
            pub const fn is_unanswered(self) -> bool {
                matches!(self, Self::FORGET | Self::BATCH_FORGET | Self::NOTIFY_REPLY)
            }

            /// Tell whether this operation is about files: it has an answer and is not about the session.
            pub const fn is_of_file(self) -> bool {
                Self::is_number_of_file(self as u32)
            }

            /// Tell the same of an operation's number; of one that is none too.
            #[inline(always)]
            pub const fn is_number_of_file(number: u32) -> bool {
                const FORGET: u32 = Opcode::FORGET as u32;
                const BATCH_FORGET: u32 = Opcode::BATCH_FORGET as u32;
                const NOTIFY_REPLY: u32 = Opcode::NOTIFY_REPLY as u32;
                const INIT: u32 = Opcode::INIT as u32;
                const DESTROY: u32 = Opcode::DESTROY as u32;
                const INTERRUPT: u32 = Opcode::INTERRUPT as u32;
                !matches!(
                    number,
                    FORGET | BATCH_FORGET | NOTIFY_REPLY | INIT | DESTROY | INTERRUPT
                )
            }

            /// Give the name, as in the kernel's header.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

/// One more than the largest operation number: the size of a table indexed by it.
pub const OPCODE_COUNT: usize = 54;

#[allow(
    non_camel_case_types,
    clippy::upper_case_acronyms,
    reason = "the kernel's names, so that one search finds both"
)]
mod names {
    use super::OPCODE_COUNT;

    opcodes! {
        /// Look up a name in a directory.
        LOOKUP = 1,
        /// Drop lookup counts; has no reply.
        FORGET = 2,
        /// Get attributes.
        GETATTR = 3,
        /// Set attributes.
        SETATTR = 4,
        /// Read the target of a symbolic link.
        READLINK = 5,
        /// Make a symbolic link.
        SYMLINK = 6,
        /// Make a file node.
        MKNOD = 8,
        /// Make a directory.
        MKDIR = 9,
        /// Remove a name.
        UNLINK = 10,
        /// Remove a directory.
        RMDIR = 11,
        /// Rename.
        RENAME = 12,
        /// Make a hard link.
        LINK = 13,
        /// Open a file.
        OPEN = 14,
        /// Read from a file.
        READ = 15,
        /// Write to a file.
        WRITE = 16,
        /// Get file system statistics.
        STATFS = 17,
        /// Close the last reference to an open file.
        RELEASE = 18,
        /// Make a file durable.
        FSYNC = 20,
        /// Set an extended attribute.
        SETXATTR = 21,
        /// Get an extended attribute.
        GETXATTR = 22,
        /// List extended attributes.
        LISTXATTR = 23,
        /// Remove an extended attribute.
        REMOVEXATTR = 24,
        /// A descriptor is closed.
        FLUSH = 25,
        /// Begin the session.
        INIT = 26,
        /// Open a directory.
        OPENDIR = 27,
        /// Read a directory.
        READDIR = 28,
        /// Close a directory.
        RELEASEDIR = 29,
        /// Make a directory durable.
        FSYNCDIR = 30,
        /// Test a POSIX lock.
        GETLK = 31,
        /// Set a lock, do not wait.
        SETLK = 32,
        /// Set a lock, wait for it.
        SETLKW = 33,
        /// Check permissions.
        ACCESS = 34,
        /// Create and open a file.
        CREATE = 35,
        /// Interrupt another request.
        INTERRUPT = 36,
        /// Map a file's block.
        BMAP = 37,
        /// End the session.
        DESTROY = 38,
        /// Device control.
        IOCTL = 39,
        /// Poll for events.
        POLL = 40,
        /// Answer to a RETRIEVE notification; has no reply.
        NOTIFY_REPLY = 41,
        /// Drop lookup counts of several nodes; has no reply.
        BATCH_FORGET = 42,
        /// Allocate or free space.
        FALLOCATE = 43,
        /// Read a directory with the entries' attributes.
        READDIRPLUS = 44,
        /// Rename with flags.
        RENAME2 = 45,
        /// Find data or a hole.
        LSEEK = 46,
        /// Copy between files.
        COPY_FILE_RANGE = 47,
        /// Map a file range into the DAX window.
        SETUPMAPPING = 48,
        /// Remove mappings from the DAX window.
        REMOVEMAPPING = 49,
        /// Make the file system durable (7.34).
        SYNCFS = 50,
        /// Create an unnamed file (7.37).
        TMPFILE = 51,
        /// Get extended attributes of a file (7.39).
        STATX = 52,
        /// Copy between files, with a 64-bit result (7.45).
        COPY_FILE_RANGE_64 = 53,
    }
}
pub use names::Opcode;

const _: () = assert!(Opcode::COPY_FILE_RANGE_64 as usize + 1 == OPCODE_COUNT);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_without_an_operation_are_none() {
        for number in [0, 7, 19, 54, 4096, u32::MAX] {
            assert_eq!(Opcode::new(number), None);
        }
        for &opcode in Opcode::ALL {
            assert_eq!(Opcode::new(opcode as u32), Some(opcode));
        }
    }
}
