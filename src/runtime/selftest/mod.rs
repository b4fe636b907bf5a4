//! `dpfs selftest`: requests through a loopback device to each configured backend, checked and timed, without a host.
//!
//! ```text
//! INIT, STATFS, GETATTR, OPENDIR, READDIR   every backend
//! CREATE, WRITE, FSYNC, READ, UNLINK        a file of its own; every byte is compared, and the file is gone in the end
//! ```
//!
//! What a backend does not do is said, not passed over: a read-only one must refuse to create (and then nothing is
//! compared), and `null` keeps no content (so zeros are expected). No transport is opened and no sandbox is closed: they
//! have tests of their own, and a daemon may be serving the same directory meanwhile.

#[expect(
    unsafe_code,
    reason = "it plays the host, whose memory a device reaches through pointers"
)]
mod host;

use core::fmt::Write;
use std::boxed::Box;
use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

use zerocopy::{FromBytes, IntoBytes};

use self::host::{DATA, Failure, Host};
use super::config::{Backend, Config, Device};
use super::open::open_backend;
use crate::fuse::{Limits, Session};
use crate::sys::time::Instant;
use crate::wire::errno::Errno;
use crate::wire::fuse::{
    AttrOut, CreateIn, EntryOut, ForgetIn, FsyncIn, GetattrIn, InitFlags, InitIn, InitOut,
    KERNEL_MINOR_VERSION, KERNEL_VERSION, Kstatfs, Opcode, OpenIn, OpenOut, ROOT_ID, ReadIn,
    ReleaseIn, WriteIn, WriteOut,
};
use crate::wire::open_flags::ClientArch;

/// Bytes of the file.
const SIZE: usize = 4 << 20;
/// Bytes of a timed request.
const BLOCK: usize = 4096;
/// Timed requests of each kind.
const TIMED: usize = 1000;
const O_RDWR: u32 = 2;
const O_CREAT: u32 = 0o100;
const O_EXCL: u32 = 0o200;
const S_IFREG: u32 = 0o100_000;

/// Test each device's backend, or that of device `tag` alone; `show` hears a line at a time. Gives how many failed.
///
/// # Errors
/// Which devices there are, when none fits.
pub fn run(
    config: &Config,
    tag: Option<&str>,
    show: &mut dyn FnMut(&str),
) -> Result<usize, String> {
    let fits = |device: &&Device| tag.is_none_or(|tag| tag == device.tag);
    let devices: Vec<&Device> = config.devices.iter().filter(fits).collect();
    if devices.is_empty() {
        let tags: Vec<&str> = config.devices.iter().map(|device| &*device.tag).collect();
        return Err(format!("no such device; devices: {}", tags.join(", ")));
    }
    let mut failed = 0;
    for device in devices {
        let mut test = Test {
            tag: &device.tag,
            show,
        };
        let began = Instant::now();
        match test.device(device) {
            Ok(()) => {
                let milliseconds = Instant::now().since(began) / 1_000_000;
                test.say(&format!("ok, {milliseconds} ms"));
            }
            Err(why) => {
                test.say(&format!("FAILED: {why}"));
                failed += 1;
            }
        }
    }
    Ok(failed)
}

/// Say what a backend does with a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keeps {
    /// All of it.
    Content,
    /// Its name only (`null`).
    Nothing,
}

struct Test<'a> {
    tag: &'a str,
    show: &'a mut dyn FnMut(&str),
}

/// Hold the file of a test.
struct File {
    node: u64,
    fh: u64,
}

/// Read the structure that a result begins with.
fn result<T: FromBytes>(bytes: &[u8], what: Opcode) -> Result<T, String> {
    let read = T::read_from_prefix(bytes).map(|(value, _)| value);
    read.map_err(|_| format!("{}: a result of {} bytes", what.name(), bytes.len()))
}

fn words(failure: Failure, opcode: Opcode) -> String {
    match failure {
        Failure::Refused(errno) => format!("{}: {errno}", opcode.name()),
        Failure::Broken(what) => what,
    }
}

/// Fill a block so that no other block, and no other place of it, is the same.
fn pattern(offset: usize, block: &mut [u8]) {
    for (index, word) in block.chunks_exact_mut(8).enumerate() {
        let place = (offset + index * 8) as u64;
        word.copy_from_slice(&(place.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5a5a).to_le_bytes());
    }
}

impl Test<'_> {
    fn say(&mut self, what: &str) {
        (self.show)(&format!("selftest {}: {what}", self.tag));
    }

    fn device(&mut self, device: &Device) -> Result<(), String> {
        let read_only = match &device.backend {
            Backend::Local(local) => local.read_only,
            Backend::Kv(kv) => kv.read_only,
            Backend::Nfs(nfs) => nfs.read_only,
            Backend::Null { .. } => false,
        };
        let keeps = match &device.backend {
            Backend::Null { .. } => Keeps::Nothing,
            _ => Keeps::Content,
        };
        let backend = open_backend(device)?;
        // This machine is the host, so its flags are the host's.
        let arch = if cfg!(target_arch = "aarch64") {
            ClientArch::Aarch64
        } else {
            ClientArch::X86_64
        };
        let session = Session::new(backend, Limits::default(), arch);
        let session: &'static Session = Box::leak(Box::new(session));
        let mut host = Host::new(session, backend)?;
        self.look(&mut host)?;
        // Unlike other names, so that nobody's file is touched: the process, and the clock.
        let name = format!(
            ".dpfs-selftest-{}-{}\0",
            std::process::id(),
            Instant::now().0
        );
        let created = self.create(&mut host, &name);
        if read_only {
            return match created {
                Err(Failure::Refused(Errno::EROFS)) => {
                    self.say("read only: CREATE is refused (EROFS), as it is to be; no content was compared");
                    Ok(())
                }
                Ok(_) => Err("read only, and a file was created".into()),
                Err(other) => Err(words(other, Opcode::CREATE)),
            };
        }
        let file = created.map_err(|failure| words(failure, Opcode::CREATE))?;
        let worked = self.work(&mut host, &file, keeps);
        // Whatever went wrong, the file goes.
        let left = self.leave(&mut host, &file, &name, keeps);
        worked.and(left)
    }

    /// Begin a session and look at the root.
    fn look(&mut self, host: &mut Host) -> Result<(), String> {
        let flags = InitFlags::BIG_WRITES | InitFlags::MAX_PAGES | InitFlags::ASYNC_READ;
        let init = InitIn {
            major: KERNEL_VERSION,
            minor: KERNEL_MINOR_VERSION,
            max_readahead: DATA as u32,
            flags: flags.bits() as u32,
            ..InitIn::default()
        };
        let mut ask = |opcode: Opcode, node: u64, args: &[u8], room: usize| {
            let answer = host.call(opcode, node, &[args], &[], room);
            answer.map_err(|failure| words(failure, opcode))
        };
        let bytes = ask(Opcode::INIT, 0, init.as_bytes(), size_of::<InitOut>())?;
        let out: InitOut = result(&bytes, Opcode::INIT)?;
        if (out.major, out.max_write as usize >= BLOCK) != (KERNEL_VERSION, true) {
            let (major, minor) = (out.major, out.minor);
            return Err(format!(
                "INIT: version {major}.{minor}, writes of {}",
                out.max_write
            ));
        }
        let bytes = ask(Opcode::STATFS, ROOT_ID, &[], size_of::<Kstatfs>())?;
        result::<Kstatfs>(&bytes, Opcode::STATFS)?;
        let args = GetattrIn::default();
        let bytes = ask(
            Opcode::GETATTR,
            ROOT_ID,
            args.as_bytes(),
            size_of::<AttrOut>(),
        )?;
        let root: AttrOut = result(&bytes, Opcode::GETATTR)?;
        if root.attr.mode & 0o170_000 != 0o040_000 {
            return Err(format!("GETATTR: the root has mode {:o}", root.attr.mode));
        }
        let args = OpenIn::default();
        let bytes = ask(
            Opcode::OPENDIR,
            ROOT_ID,
            args.as_bytes(),
            size_of::<OpenOut>(),
        )?;
        let fh = result::<OpenOut>(&bytes, Opcode::OPENDIR)?.fh;
        let args = ReadIn {
            fh,
            size: BLOCK as u32,
            ..ReadIn::default()
        };
        ask(Opcode::READDIR, ROOT_ID, args.as_bytes(), BLOCK)?;
        let args = ReleaseIn {
            fh,
            ..ReleaseIn::default()
        };
        ask(Opcode::RELEASEDIR, ROOT_ID, args.as_bytes(), 0)?;
        self.say("session and root: ok");
        Ok(())
    }

    fn create(&mut self, host: &mut Host, name: &str) -> Result<File, Failure> {
        let args = CreateIn {
            flags: O_RDWR | O_CREAT | O_EXCL,
            mode: S_IFREG | 0o600,
            ..CreateIn::default()
        };
        let room = size_of::<EntryOut>() + size_of::<OpenOut>();
        let parts = [args.as_bytes(), name.as_bytes()];
        let bytes = host.call(Opcode::CREATE, ROOT_ID, &parts, &[], room)?;
        let entry: EntryOut = result(&bytes, Opcode::CREATE).map_err(Failure::Broken)?;
        let opened: OpenOut = result(
            bytes.get(size_of::<EntryOut>()..).unwrap_or_default(),
            Opcode::CREATE,
        )
        .map_err(Failure::Broken)?;
        Ok(File {
            node: entry.nodeid,
            fh: opened.fh,
        })
    }

    /// Fill the file, read it back, time small requests.
    fn work(&mut self, host: &mut Host, file: &File, keeps: Keeps) -> Result<(), String> {
        let mut block = vec![0; DATA];
        let began = Instant::now();
        for offset in (0..SIZE).step_by(DATA) {
            pattern(offset, &mut block);
            write(host, file, offset, &block)?;
        }
        let args = FsyncIn {
            fh: file.fh,
            ..FsyncIn::default()
        };
        let synced = host.call(Opcode::FSYNC, file.node, &[args.as_bytes()], &[], 0);
        synced.map_err(|failure| words(failure, Opcode::FSYNC))?;
        self.rate("written and synced", SIZE, began);
        let began = Instant::now();
        let mut expected = vec![0; DATA];
        for offset in (0..SIZE).step_by(DATA) {
            if keeps == Keeps::Content {
                pattern(offset, &mut expected);
            }
            let found = read(host, file, offset, DATA)?;
            if found != expected {
                let same = found.iter().zip(&expected).take_while(|(a, b)| a == b);
                let (at, len) = (offset + same.count(), found.len());
                return Err(format!("READ: another byte at {at}, of {len} bytes"));
            }
        }
        self.rate("read and compared", SIZE, began);
        if keeps == Keeps::Nothing {
            self.say("the null backend keeps no content: zeros were read, as they are to be");
        }
        let blocks = SIZE / BLOCK;
        // Steps of a prime number visit all of a power of two.
        let places = || (0..TIMED).map(|turn| turn * 7919 % blocks * BLOCK);
        let began = Instant::now();
        for offset in places() {
            pattern(offset, &mut block[..BLOCK]);
            write(host, file, offset, &block[..BLOCK])?;
        }
        self.times("WRITE", began);
        let began = Instant::now();
        for offset in places() {
            let found = read(host, file, offset, BLOCK)?;
            if keeps == Keeps::Content {
                pattern(offset, &mut expected[..BLOCK]);
            }
            if found != expected[..BLOCK] {
                return Err(format!("READ: other bytes at {offset}"));
            }
        }
        self.times("READ", began);
        Ok(())
    }

    /// Close and remove the file, and see that it is gone.
    fn leave(
        &mut self,
        host: &mut Host,
        file: &File,
        name: &str,
        keeps: Keeps,
    ) -> Result<(), String> {
        let args = ReleaseIn {
            fh: file.fh,
            flags: O_RDWR,
            ..ReleaseIn::default()
        };
        let closed = host.call(Opcode::RELEASE, file.node, &[args.as_bytes()], &[], 0);
        let gone = host.call(Opcode::UNLINK, ROOT_ID, &[name.as_bytes()], &[], 0);
        closed.map_err(|failure| words(failure, Opcode::RELEASE))?;
        gone.map_err(|failure| words(failure, Opcode::UNLINK))?;
        let args = ForgetIn { nlookup: 1 };
        let told = host.tell(Opcode::FORGET, file.node, args.as_bytes());
        told.map_err(|failure| words(failure, Opcode::FORGET))?;
        let room = size_of::<EntryOut>();
        let found = host.call(Opcode::LOOKUP, ROOT_ID, &[name.as_bytes()], &[], room);
        match found {
            // Any name exists there.
            Ok(_) if keeps == Keeps::Nothing => {}
            Ok(bytes) if result::<EntryOut>(&bytes, Opcode::LOOKUP)?.nodeid == 0 => {}
            Err(Failure::Refused(Errno::ENOENT)) => {}
            Ok(_) => return Err("UNLINK: the file is still there".into()),
            Err(other) => return Err(words(other, Opcode::LOOKUP)),
        }
        let ended = host.call(Opcode::DESTROY, 0, &[], &[], 0);
        ended.map_err(|failure| words(failure, Opcode::DESTROY))?;
        Ok(())
    }

    fn rate(&mut self, what: &str, bytes: usize, began: Instant) {
        let time = Instant::now().since(began).max(1);
        let rate = bytes as u64 * 1000 / time;
        self.say(&format!(
            "{} MiB {what}, {} KiB a request: {rate} MB/s",
            bytes >> 20,
            DATA >> 10
        ));
    }

    fn times(&mut self, what: &str, began: Instant) {
        let time = Instant::now().since(began).max(1);
        let each = time / TIMED as u64;
        let mut line = String::new();
        // Writing to a String cannot fail.
        let _ = write!(
            line,
            "{what} of 4 KiB, one at a time: {}.{:01} us, {} a second",
            each / 1000,
            each % 1000 / 100,
            TIMED as u64 * 1_000_000_000 / time
        );
        self.say(&line);
    }
}

fn write(host: &mut Host, file: &File, offset: usize, bytes: &[u8]) -> Result<(), String> {
    let args = WriteIn {
        fh: file.fh,
        offset: offset as u64,
        size: bytes.len() as u32,
        ..WriteIn::default()
    };
    let room = size_of::<WriteOut>();
    let answer = host.call(Opcode::WRITE, file.node, &[args.as_bytes()], bytes, room);
    let answer = answer.map_err(|failure| words(failure, Opcode::WRITE))?;
    let written: WriteOut = result(&answer, Opcode::WRITE)?;
    if written.size as usize != bytes.len() {
        return Err(format!("WRITE: {} of {} bytes", written.size, bytes.len()));
    }
    Ok(())
}

fn read(host: &mut Host, file: &File, offset: usize, len: usize) -> Result<Vec<u8>, String> {
    let args = ReadIn {
        fh: file.fh,
        offset: offset as u64,
        size: len as u32,
        ..ReadIn::default()
    };
    let answer = host.call(Opcode::READ, file.node, &[args.as_bytes()], &[], len);
    answer.map_err(|failure| words(failure, Opcode::READ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Run the test of one device; gives the lines and whether it passed.
    fn test(backend: &str) -> (String, bool) {
        let text = format!(
            "[[device]]\ntag = \"a\"\nhal = {{ kind = \"vhost-user\", socket = \"/run/a.sock\" }}\nbackend = {backend}\n"
        );
        let config = Config::parse("test.toml", &text).unwrap();
        let mut lines = String::new();
        let failed = run(&config, None, &mut |line| lines += &format!("{line}\n")).unwrap();
        (lines, failed == 0)
    }

    #[test]
    fn null_keeps_nothing_and_that_is_said() {
        let (lines, passed) = test("{ kind = \"null\" }");
        assert!(passed && lines.contains("keeps no content"), "{lines}");
        let (lines, passed) = test("{ kind = \"null\", file_size = \"64KiB\" }");
        assert!(!passed && lines.contains("FAILED: READ: "), "{lines}");
    }

    #[test]
    fn a_directory_keeps_its_content_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let backend = format!(
            "{{ kind = \"local\", path = \"{}\" }}",
            dir.path().display()
        );
        let (lines, passed) = test(&backend);
        if lines.contains("io_uring is not available") {
            std::println!("not run: no io_uring, as under qemu-user");
            return;
        }
        assert!(
            passed && lines.contains("4 MiB read and compared"),
            "{lines}"
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let read_only = backend.replace(" }", ", read_only = true }");
        let (lines, passed) = test(&read_only);
        assert!(
            passed && lines.contains("CREATE is refused (EROFS)"),
            "{lines}"
        );
        assert!(!lines.contains("compared:"), "{lines}");
    }

    #[cfg(feature = "kv-embedded")]
    #[test]
    fn a_store_keeps_its_content() {
        let (lines, passed) = test(
            "{ kind = \"kv\", engine = \"embedded\", path = \":memory:\", memory = \"16MiB\" }",
        );
        assert!(passed && lines.contains("READ of 4 KiB"), "{lines}");
    }

    #[test]
    fn what_is_not_there_fails() {
        let (lines, passed) = test("{ kind = \"local\", path = \"/nonexistent\" }");
        assert!(!passed && lines.contains("FAILED: /nonexistent"), "{lines}");
        let config = Config::parse(
            "t",
            "[[device]]\ntag = \"a\"\nhal = { kind = \"vhost-user\", socket = \"/s\" }\nbackend = { kind = \"null\" }",
        );
        let error = run(&config.unwrap(), Some("b"), &mut |_| ()).unwrap_err();
        assert_eq!(error, "no such device; devices: a");
    }
}
