//! Telling the service manager that the daemon serves, that its cores still turn, and that it stops: sd_notify(3),
//! the protocol of `Type=notify` and `WatchdogSec=` of systemd.
//!
//! The socket is opened before the sandbox closes. A core is alive when its loop comes round: it is asked by a flag that
//! it clears, which costs the loop one load. When a core stays away, the manager hears nothing more and restarts the
//! daemon after the time that its unit says.

use core::time::Duration;
use std::env;
use std::ffi::OsString;
use std::format;
use std::io;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::string::String;
use std::time::Instant;

use super::core_loop::Stop;
use crate::log::warn;
use crate::sys;

/// Speak to the service manager, if there is one.
pub struct Manager {
    socket: Option<UnixDatagram>,
    /// Longest silence, when the manager watches.
    silence: Option<Duration>,
    asked_at: Option<Instant>,
    warned: bool,
}

impl Manager {
    /// Find the manager that started this process: `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub fn find() -> Result<Self, String> {
        Self::from_variables(&|name| env::var_os(name))
    }

    fn from_variables(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, String> {
        let socket = match variable("NOTIFY_SOCKET") {
            Some(name) => {
                let told = |error| format!("NOTIFY_SOCKET={}: {error}", name.display());
                Some(connect(name.as_bytes()).map_err(told)?)
            }
            None => None,
        };
        let meant = variable("WATCHDOG_PID").is_none_or(|pid| {
            let own = format!("{}", process::id());
            pid.as_bytes() == own.as_bytes()
        });
        let silence = match variable("WATCHDOG_USEC").filter(|_| meant && socket.is_some()) {
            Some(text) => {
                let time = text.to_str().and_then(|text| text.parse().ok());
                let time = time.filter(|&time| time > 0).ok_or_else(|| {
                    format!(
                        "WATCHDOG_USEC: found {}; allowed: microseconds, from 1 on",
                        text.display()
                    )
                })?;
                Some(Duration::from_micros(time))
            }
            None => None,
        };
        Ok(Self {
            socket,
            silence,
            asked_at: None,
            warned: false,
        })
    }

    fn say(&self, words: &str) {
        if let Some(socket) = &self.socket {
            // A manager that is gone or busy hears it next time.
            let _ = sys::io::write(socket.as_raw_fd(), words.as_bytes());
        }
    }

    /// Say that the devices are served.
    pub fn ready(&self) {
        self.say("READY=1\n");
    }

    /// Say that the daemon begins to stop.
    pub fn stopping(&self) {
        self.say("STOPPING=1\n");
    }

    /// Say that all cores turn, as often as the manager wants to hear it. To be called a few times in that time.
    pub fn watch(&mut self, cores: &[Stop]) {
        let Some(silence) = self.silence else {
            return;
        };
        let now = Instant::now();
        let Some(asked_at) = self.asked_at else {
            cores.iter().for_each(Stop::ask);
            self.asked_at = Some(now);
            return;
        };
        let away = cores.iter().filter(|core| !core.answered()).count();
        if away == 0 {
            self.say("WATCHDOG=1\n");
            self.asked_at = None;
            self.warned = false;
        } else if !self.warned && now.duration_since(asked_at) > silence / 2 {
            self.warned = true;
            warn!(
                "{} of {} cores do not come round any more; the service manager hears of none",
                away,
                cores.len()
            );
        }
    }
}

/// Connect to a path, or to a name without a file, which begins with "@".
fn connect(name: &[u8]) -> io::Result<UnixDatagram> {
    let address = match name {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{CoreLoop, Polling};
    use std::thread;
    use std::vec::Vec;

    fn manager(
        socket: &std::path::Path,
        watchdog: &'static str,
        pid: String,
    ) -> Result<Manager, String> {
        Manager::from_variables(&|name| match name {
            "NOTIFY_SOCKET" => Some(socket.into()),
            "WATCHDOG_USEC" => Some(watchdog.into()),
            _ => Some(pid.clone().into()),
        })
    }

    fn heard(socket: &UnixDatagram) -> Option<String> {
        let mut bytes = [0; 64];
        let len = socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..len]).trim_end().into())
    }

    #[test]
    fn it_hears_of_cores_only_while_all_of_them_turn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut manager = manager(&path, "20000000", format!("{}", process::id())).unwrap();
        manager.ready();
        assert_eq!(heard(&socket).as_deref(), Some("READY=1"));
        let stops: Vec<Stop> = (0..2).map(|_| Stop::new().unwrap()).collect();
        let run = |stop: &Stop| {
            let stop = stop.clone();
            thread::spawn(|| {
                let core = CoreLoop::new(Vec::new(), Polling::Busy, stop);
                core.unwrap().run()
            })
        };
        let first = run(&stops[0]);
        manager.watch(&stops);
        while !stops[0].answered() {
            thread::yield_now();
        }
        manager.watch(&stops);
        assert_eq!(heard(&socket), None, "the second core does not turn");
        let second = run(&stops[1]);
        while !stops[1].answered() {
            thread::yield_now();
        }
        manager.watch(&stops);
        assert_eq!(heard(&socket).as_deref(), Some("WATCHDOG=1"));
        manager.stopping();
        assert_eq!(heard(&socket).as_deref(), Some("STOPPING=1"));
        stops.iter().for_each(Stop::stop);
        assert_eq!((first.join().unwrap(), second.join().unwrap()), (0, 0));
    }

    #[test]
    fn what_is_meant_for_another_process_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let _socket = UnixDatagram::bind(&path).unwrap();
        assert_eq!(manager(&path, "1", "1".into()).unwrap().silence, None);
        assert!(Manager::from_variables(&|_| None).unwrap().socket.is_none());
    }

    #[test]
    fn what_is_wrong_with_the_variables_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let own = format!("{}", process::id());
        let error = manager(&path, "5", own.clone()).err().unwrap();
        assert!(error.starts_with("NOTIFY_SOCKET=/"), "{error}");
        let _socket = UnixDatagram::bind(&path).unwrap();
        for text in ["0", "soon"] {
            let error = manager(&path, text, own.clone()).err().unwrap();
            assert_eq!(
                error,
                format!("WATCHDOG_USEC: found {text}; allowed: microseconds, from 1 on")
            );
        }
    }
}
