//! The control thread of a device: waits for front-ends and serves one after another.

use std::format;
use std::io;
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::connection::{Connection, End};
use super::device::{Device, Refusal, Reply};
use super::listener::Listener;
use super::queues::QueueError;
use crate::log;
use crate::sys;
use crate::sys::epoll::Epoll;
use crate::sys::eventfd::EventFd;
use crate::sys::fd::Fd;
use crate::sys::socket;
use crate::sys::time::Instant;
use crate::wire::errno::Errno;

/// Stop and start the control thread of one device. Stops it on drop.
pub struct Control {
    stop: Arc<EventFd>,
    idle: Option<(Listener, Device)>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    pub(super) fn new(listener: Listener, device: Device) -> sys::Result<Self> {
        Ok(Self {
            stop: Arc::new(EventFd::new()?),
            idle: Some((listener, device)),
            thread: None,
        })
    }

    /// Begin to serve front-ends. Does nothing the second time.
    ///
    /// # Errors
    /// When the system gives no thread or no descriptor.
    pub fn start(&mut self) -> io::Result<()> {
        let Some((listener, device)) = self.idle.take() else {
            return Ok(());
        };
        let system = |error: Errno| io::Error::from_raw_os_error(error.get());
        let server = Server::new(listener, device, Arc::clone(&self.stop)).map_err(system)?;
        let name = format!("vu-{}", server.device.tag());
        let thread = thread::Builder::new().name(name);
        self.thread = Some(thread.spawn(move || server.run())?);
        Ok(())
    }

    /// Stop: queues are stopped as for a front-end that is gone, the connection is closed and the socket removed.
    ///
    /// The cores must go on polling until this returns, which takes at most 10 seconds.
    pub fn stop(&mut self) {
        self.idle = None;
        if let Some(thread) = self.thread.take() {
            self.stop.notify();
            if thread.join().is_err() {
                log::error!("a control thread panicked");
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop();
    }
}

const STOP: u64 = 0;
const CORES: u64 = 1;
const SOCKET: u64 = 2;
const PROCESS: u64 = 3;
const CALL: u64 = 4;

/// What happened while a front-end was waited for.
#[derive(Default)]
struct Woken {
    stop: bool,
    /// The process that connected ended.
    process: bool,
    /// Another front-end calls.
    call: bool,
}

/// What the thread owns.
struct Server {
    listener: Listener,
    device: Device,
    /// Kept open for the sets below.
    _stop: Arc<EventFd>,
    /// What is waited for whether or not a front-end is there: the stop signal, and word from the cores.
    always: Epoll,
    /// That, and a front-end that calls.
    calls: Epoll,
}

impl Server {
    fn new(listener: Listener, device: Device, stop: Arc<EventFd>) -> sys::Result<Self> {
        let (always, calls) = (Epoll::new()?, Epoll::new()?);
        always.add(stop.raw(), STOP)?;
        always.add(device.queues.done_fd(), CORES)?;
        calls.add(stop.raw(), STOP)?;
        calls.add(device.queues.done_fd(), CORES)?;
        calls.add(listener.raw(), SOCKET)?;
        Ok(Self {
            listener,
            device,
            _stop: stop,
            always,
            calls,
        })
    }

    fn run(mut self) {
        while let Some(socket) = self.next() {
            log::info!("device {}: front-end connected", self.device.tag());
            let end = self.serve(socket);
            if matches!(end, End::Closed | End::Shutdown | End::Replaced) {
                log::info!("device {}: front-end gone", self.device.tag());
            } else {
                log::warn!(
                    "device {}: front-end dropped: {}",
                    self.device.tag(),
                    log::Debugged(&end)
                );
            }
            self.device.disconnected();
        }
    }

    /// Wait for a front-end; `None` when it is time to stop.
    fn next(&mut self) -> Option<Fd> {
        loop {
            match self.listener.accept() {
                Ok(Some(socket)) => {
                    // SAFETY: the descriptor was given up by its owner.
                    return Some(unsafe { Fd::from_raw(socket.into_raw_fd()) });
                }
                Ok(None) => {}
                Err(error) => {
                    log::error!(
                        "device {}: cannot accept: {}",
                        self.device.tag(),
                        log::Show(&error)
                    );
                    // Out of descriptors, most likely: the caller stays in the backlog.
                    thread::sleep(std::time::Duration::from_millis(100));
                }
            }
            let now = Instant::now();
            self.device.expire(now);
            let wait = self.device.deadline().map_or(-1, |until| {
                until.since(now).div_ceil(1_000_000).min(i32::MAX as u64) as i32
            });
            if self.wait(true, wait).stop {
                return None;
            }
        }
    }

    /// Wait for something to happen.
    fn wait(&mut self, idle: bool, milliseconds: i32) -> Woken {
        let (mut woken, mut word) = (Woken::default(), false);
        let set = if idle { &self.calls } else { &self.always };
        let waited = set.wait(milliseconds, |key| match key {
            STOP => woken.stop = true,
            CORES => word = true,
            PROCESS => woken.process = true,
            CALL => woken.call = true,
            _ => {}
        });
        if let Err(error) = waited {
            // Cannot happen with sets of our own, and nothing would ever wake this thread again.
            log::error!("device {}: epoll: {}", self.device.tag(), error);
            woken.stop = true;
        }
        if word {
            self.device.report();
        }
        woken
    }

    /// Serve one front-end to its end.
    fn serve(&mut self, socket: Fd) -> End {
        let mut connection = Connection::new(socket);
        if let Err(error) = self.always.add(connection.raw(), SOCKET) {
            return End::Socket(error);
        }
        // Processes that a front-end started may keep its socket open when it was killed: User-Mode Linux leaves such.
        // Older kernels cannot tell; there the next front-end has to wait until these are gone, too.
        let mut process = socket::peer_process(connection.raw()).ok();
        if let Some(fd) = &process {
            // Without room for it in the set, it is as on an older kernel.
            let _ = self.always.add(fd.raw(), PROCESS);
        }
        let end = loop {
            match self.step(&mut connection) {
                Ok(woken) if woken.stop => break End::Shutdown,
                Ok(woken) if woken.call => break End::Replaced,
                Ok(woken) if woken.process => {
                    if let Some(fd) = process.take() {
                        let _ = self.always.remove(fd.raw());
                        let _ = self.always.add(self.listener.raw(), CALL);
                    }
                }
                Ok(_) => {}
                Err(end) => break end,
            }
        };
        // The front-end may have the same open socket in several processes. What is not in the set needs no removal.
        let _ = self.always.remove(connection.raw());
        let _ = match &process {
            Some(fd) => self.always.remove(fd.raw()),
            None => self.always.remove(self.listener.raw()),
        };
        end
    }

    /// Serve one message, or wait for it.
    fn step(&mut self, connection: &mut Connection) -> Result<Woken, End> {
        let Some(message) = connection.poll()? else {
            return Ok(self.wait(false, -1));
        };
        let header = message.header;
        let result = self.device.handle(message);
        // Asked afterwards: User-Mode Linux wants a reply to the very message that agrees on replies.
        let told = header.needs_reply() && self.device.acknowledges();
        // What nobody took is closed before the reply, so that the front-end finds it so.
        message.fds.clear();
        let sent = match result {
            Ok(Reply::Payload(payload)) => connection.reply(&header, &payload, None),
            Ok(Reply::WithFd(payload, fd)) => connection.reply(&header, &payload, Some(&fd)),
            Ok(Reply::None) if told => connection.reply(&header, &0u64.to_ne_bytes(), None),
            Ok(Reply::None) => Ok(()),
            Err(refusal) => {
                log::warn!(
                    "device {}: message {} refused: {}",
                    self.device.tag(),
                    header.request,
                    log::Debugged(&refusal)
                );
                // A front-end that wants to know can go on; one that does not would believe that all is well.
                match refusal {
                    Refusal::Queue(QueueError::Stuck) => Err(End::Stuck),
                    _ if told => connection.reply(&header, &1u64.to_ne_bytes(), None),
                    _ => Err(End::Refused),
                }
            }
        };
        // Looked for after each message, too: a front-end that never falls silent must not keep this from stopping.
        sent.map(|()| self.wait(false, 0))
    }
}
