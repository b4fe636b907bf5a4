//! Functions of the emulated DPU, and cores that answer each request with its own bytes, inverted.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;

use dpfs::hal::snap::{self, Control, SnapConfig, SnapError, SnapQueue};
use dpfs::hal::{Events, Queue};
use dpfs::mem::{SegmentList, Token};
use tempfile::TempDir;
use zerocopy::FromZeros;

/// Poll groups of every function: libsnap wants the same number for all of a process.
pub const GROUPS: u32 = 2;
/// Descriptors of each queue.
pub const DEPTH: u16 = 64;
/// Emulation manager for functions that are always there, and for those that come and go.
pub const STEADY: &str = "mlx5_0";
pub const MOVING: &str = "mlx5_1";
/// VFs that a steady physical function has.
pub const VFS: u32 = 16;

/// Where the emulated host's sockets are; the firmware is described on first use.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let mode = if snap::completes_later() {
        "later"
    } else {
        "now"
    };
    let words = format!(
        "dir={} managers={STEADY},{MOVING} pfs=2 vfs={VFS} hotplug=1 virtqs=5 mode={mode}",
        folder.path().display()
    );
    // SAFETY: only the emulation reads the environment, and every test comes by here before it does anything with it.
    unsafe { std::env::set_var("SNAP_EMU", words) };
    folder
});

/// Give a file of the emulated host's.
pub fn file(name: &str) -> PathBuf {
    FOLDER.path().join(name)
}

/// Say which function, with two request queues.
pub fn config(manager: &str, pf: u32, vf: Option<u32>) -> SnapConfig {
    LazyLock::force(&FOLDER);
    SnapConfig {
        manager: manager.into(),
        pf,
        vf,
        tag: "projects".into(),
        request_queues: 2,
        depth: DEPTH,
        poll_groups: GROUPS,
    }
}

/// What a test tells the cores of one function, and hears from them.
#[derive(Default)]
pub struct Orders {
    /// Complete nothing.
    hold: AtomicBool,
    /// Requests taken so far.
    taken: AtomicU32,
    resets: AtomicU32,
}

impl Events for Orders {
    fn reset(&self) {
        self.resets.fetch_add(1, Ordering::SeqCst);
    }
}

impl Orders {
    pub fn hold(&self, hold: bool) {
        self.hold.store(hold, Ordering::SeqCst);
    }

    pub fn holds(&self) -> bool {
        self.hold.load(Ordering::SeqCst)
    }

    pub fn taken(&self) -> u32 {
        self.taken.load(Ordering::SeqCst)
    }

    pub fn resets(&self) -> u32 {
        self.resets.load(Ordering::SeqCst)
    }
}

/// One function.
pub struct Function {
    pub control: Control,
    pub orders: &'static Orders,
    socket: PathBuf,
}

impl Function {
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

/// Functions, and two cores or one that serve all of them.
pub struct Bed {
    pub functions: Vec<Function>,
    quit: Arc<AtomicBool>,
    cores: Vec<JoinHandle<()>>,
}

impl Bed {
    /// Serve functions on `cores` threads.
    pub fn new(configs: Vec<SnapConfig>, cores: usize) -> Self {
        Self::try_new(configs, cores).unwrap()
    }

    pub fn try_new(configs: Vec<SnapConfig>, cores: usize) -> Result<Self, SnapError> {
        let mut lanes: Vec<Vec<(SnapQueue, &'static Orders)>> =
            (0..cores).map(|_| Vec::new()).collect();
        let mut functions = Vec::new();
        for config in configs {
            let orders: &'static Orders = Box::leak(Box::default());
            let name = match config.vf {
                Some(vf) => format!("{}-pf{}vf{vf}.sock", config.manager, config.pf),
                None => format!("{}-pf{}.sock", config.manager, config.pf),
            };
            let (queues, control) = snap::open(config, orders)?;
            assert_eq!(queues.len() as u32, GROUPS);
            for (group, queue) in queues.into_iter().enumerate() {
                lanes[group % cores].push((queue, orders));
            }
            functions.push(Function {
                control,
                orders,
                socket: file(&name),
            });
        }
        let quit = Arc::new(AtomicBool::new(false));
        let cores = lanes.into_iter().map(|lanes| {
            let quit = Arc::clone(&quit);
            std::thread::spawn(move || serve(lanes, &quit))
        });
        let cores = cores.collect();
        for function in &mut functions {
            function.control.start().unwrap();
        }
        Ok(Self {
            functions,
            quit,
            cores,
        })
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for function in &mut self.functions {
            function.orders.hold(false);
            function.control.stop();
        }
        self.quit.store(true, Ordering::SeqCst);
        for core in self.cores.drain(..) {
            core.join().unwrap();
        }
    }
}

struct Lane {
    queue: SnapQueue,
    orders: &'static Orders,
    held: Vec<(Token, Box<SegmentList>)>,
}

impl Lane {
    fn new(queue: SnapQueue, orders: &'static Orders) -> Self {
        assert!(queue.traits().sends_all);
        assert_eq!(queue.traits().deferred, snap::completes_later());
        Self {
            queue,
            orders,
            held: Vec::new(),
        }
    }

    fn round(&mut self) {
        let mut list = Box::new(SegmentList::new_zeroed());
        while let Some(token) = self.queue.poll(&mut list) {
            self.orders.taken.fetch_add(1, Ordering::SeqCst);
            self.held.push((token, list));
            list = Box::new(SegmentList::new_zeroed());
        }
        if !self.orders.hold.load(Ordering::SeqCst) {
            for (token, mut list) in self.held.drain(..) {
                let mut bytes = vec![0; list.readable_len().min(list.writable_len())];
                list.read_front(&mut bytes).unwrap();
                bytes.iter_mut().for_each(|byte| *byte = !*byte);
                list.write_at(0, &bytes).unwrap();
                self.queue.complete(token, bytes.len() as u32);
            }
        }
        self.queue.flush();
    }
}

fn serve(lanes: Vec<(SnapQueue, &'static Orders)>, quit: &AtomicBool) {
    let lanes = lanes.into_iter();
    let mut lanes: Vec<Lane> = lanes
        .map(|(queue, orders)| Lane::new(queue, orders))
        .collect();
    while !quit.load(Ordering::SeqCst) {
        lanes.iter_mut().for_each(Lane::round);
        // Two tests' cores on one processor get on faster so.
        std::thread::yield_now();
    }
}
