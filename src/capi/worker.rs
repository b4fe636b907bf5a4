//! `struct dpfs_worker`: some queues of a device on one thread.

use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::slice;
use core::sync::atomic::{AtomicU64, Ordering};

use dpfs::board;
use dpfs::fuse::Dispatcher;
use dpfs::mem::{Arena, Finished, OutOfMemory, RequestTable};
use dpfs::runtime::qos::Gate;
use dpfs::runtime::{Admission, Lane, Load, Observer, Served, Worker as Core};
use dpfs::sys::time::Instant;

use crate::device::Device;
use crate::queue::{CallerQueue, Calls};
use crate::{EINVAL, arena, require, too_little};

/// `struct dpfs_counts`.
#[repr(C)]
pub struct Counts {
    requests: u64,
    errors: u64,
    refused: u64,
}

const _: () = assert!(size_of::<Counts>() == 24);

/// Count for any thread to read.
#[derive(Default)]
struct Counters {
    requests: AtomicU64,
    errors: AtomicU64,
    refused: AtomicU64,
}

/// Count what ends.
struct Tally(&'static Counters);

impl Observer for Tally {
    fn finished(&mut self, finished: &Finished, _: u64) {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        if finished.error != 0 {
            self.0.errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn round_ended(&mut self, _: Load) {}
}

/// `struct dpfs_worker`.
pub struct Worker {
    core: Core,
    counters: &'static Counters,
}

/// Room for a value at any alignment.
const fn room<T>(count: usize) -> usize {
    count * size_of::<T>() + align_of::<T>()
}

const fn allowed(queues: u32, depth: u32) -> bool {
    let (queues, depth) = (queues as u64, depth as u64);
    // The hiprio queue comes on top.
    queues >= 1 && queues <= board::QUEUES + 1 && depth >= 1 && depth <= board::DEPTH
}

const fn memory(queues: usize, depth: u16) -> usize {
    let each = RequestTable::footprint(depth)
        + room::<CallerQueue>(1)
        + size_of::<Lane>()
        + size_of::<&RequestTable>();
    let once = room::<Counters>(1)
        + room::<Lane>(0)
        + room::<&RequestTable>(0)
        + Dispatcher::FOOTPRINT
        + room::<dpfs::backend::null::Null>(1)
        + room::<Tally>(1)
        + room::<Gate>(1)
        + room::<Worker>(1);
    queues * each + once
}

/// See `dpfs.h`.
#[unsafe(no_mangle)]
pub extern "C" fn dpfs_worker_memory(queues: u32, depth: u32) -> usize {
    if allowed(queues, depth) {
        memory(queues as usize, depth as u16)
    } else {
        0
    }
}

/// See `dpfs.h`.
///
/// # Safety
/// `device` was made by `dpfs_device_new` and outlives the worker; `queues` points to `count` queues, `memory` to
/// `bytes` bytes that are the library's, and `worker` to a pointer; or they are null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dpfs_worker_new(
    device: *const Device,
    queues: *const Calls,
    count: u32,
    depth: u32,
    memory_at: *mut c_void,
    bytes: usize,
    worker: *mut *mut Worker,
) -> c_int {
    const WHAT: &str = "dpfs_worker_new";
    require!(
        !device.is_null() && !queues.is_null() && !memory_at.is_null() && !worker.is_null(),
        "{}: found a null pointer; allowed: none",
        WHAT
    );
    require!(
        allowed(count, depth),
        "{}: found {} queues of depth {}; allowed: 1 to {} of 1 to {}",
        WHAT,
        count,
        depth,
        board::QUEUES + 1,
        board::DEPTH
    );
    // SAFETY: not null, and as many as the caller says.
    let calls = unsafe { slice::from_raw_parts(queues, count as usize) };
    // SAFETY: not null; it outlives the worker, and is only ever shared.
    let device: &'static Device = unsafe { &*device };
    // SAFETY: not null; the caller's promise.
    let arena = unsafe { arena(memory_at.cast(), bytes) };
    match build(&arena, device, calls, depth as u16) {
        Ok(made) => {
            // SAFETY: not null, so a place for a pointer.
            unsafe { worker.write(made) };
            0
        }
        Err(Problem::Memory) => too_little(WHAT, bytes, memory(count as usize, depth as u16)),
        Err(Problem::Function(index)) => {
            require!(
                false,
                "{}: queue {}: found a null function; allowed: for flush only",
                WHAT,
                index
            );
            EINVAL
        }
    }
}

/// Say why there is no worker.
enum Problem {
    Memory,
    /// The queue of this index lacks a function.
    Function(usize),
}

impl From<OutOfMemory> for Problem {
    fn from(_: OutOfMemory) -> Self {
        Self::Memory
    }
}

/// Give `count` values, each moved into the arena as it is made.
fn place_all<T>(
    arena: &Arena,
    count: usize,
    mut make: impl FnMut(usize) -> Result<T, Problem>,
) -> Result<&'static mut [T], Problem> {
    let places = arena.zeroed::<MaybeUninit<T>>(count)?;
    for (index, place) in places.iter_mut().enumerate() {
        place.write(make(index)?);
    }
    let first = places.as_mut_ptr().cast::<T>();
    // SAFETY: all of them were written just now, and the arena gave their memory to nobody else.
    Ok(unsafe { slice::from_raw_parts_mut(first, count) })
}

fn build(
    arena: &Arena,
    device: &'static Device,
    calls: &[Calls],
    depth: u16,
) -> Result<&'static mut Worker, Problem> {
    let counters: &'static Counters = arena.place(Counters::default())?;
    let tables: &'static [&'static RequestTable] = place_all(arena, calls.len(), |index| {
        Ok(RequestTable::new(
            arena,
            depth,
            index as u32 * u32::from(depth),
        )?)
    })?;
    let lanes = place_all(arena, calls.len(), |index| {
        let queue = CallerQueue::new(&calls[index], &counters.refused);
        let queue: &'static mut dyn Served = arena.place(queue.ok_or(Problem::Function(index))?)?;
        let table = tables[index];
        Ok(Lane { queue, table })
    })?;
    let admission: Option<&'static mut dyn Admission> = if device.limiter.is_limited() {
        Some(arena.place(Gate::new(&device.limiter))?)
    } else {
        None
    };
    let core = Core::new(
        lanes,
        tables,
        Dispatcher::new(&device.session, arena)?,
        arena.place(device.null)?,
        arena.place(Tally(counters))?,
        admission,
    );
    Ok(arena.place(Worker { core, counters })?)
}

/// See `dpfs.h`.
///
/// # Safety
/// `worker` was made by [`dpfs_worker_new`], its memory is still the library's and no other thread uses it now; or it
/// is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dpfs_worker_round(worker: *mut Worker, now: u64) -> c_int {
    // SAFETY: as the caller says.
    let worker = unsafe { worker.as_mut() };
    worker.map_or(EINVAL, |worker| worker.core.round(Instant(now)).into())
}

/// See `dpfs.h`.
///
/// # Safety
/// As for [`dpfs_worker_round`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dpfs_worker_deadline(worker: *const Worker) -> u64 {
    // SAFETY: as the caller says.
    let worker = unsafe { worker.as_ref() };
    let deadline = worker.and_then(|worker| worker.core.deadline());
    deadline.map_or(u64::MAX, |deadline| deadline.0)
}

/// See `dpfs.h`.
///
/// # Safety
/// As for [`dpfs_worker_round`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dpfs_worker_in_flight(worker: *const Worker) -> u32 {
    // SAFETY: as the caller says.
    let worker = unsafe { worker.as_ref() };
    worker.map_or(0, |worker| worker.core.in_flight() as u32)
}

/// See `dpfs.h`.
///
/// # Safety
/// As for [`dpfs_worker_round`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dpfs_worker_shutdown(worker: *mut Worker) -> c_int {
    // SAFETY: as the caller says.
    let Some(worker) = (unsafe { worker.as_mut() }) else {
        return EINVAL;
    };
    worker.core.shutdown();
    0
}

/// See `dpfs.h`.
///
/// # Safety
/// `worker` was made by [`dpfs_worker_new`] and its memory is still the library's, or it is null; `counts` points to a
/// place for them, or is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dpfs_worker_counts(worker: *const Worker, counts: *mut Counts) -> c_int {
    if worker.is_null() || counts.is_null() {
        return EINVAL;
    }
    // SAFETY: not null. The one field that is reached does not change; no reference to the rest, which another thread
    // may be using, is formed.
    let counters = unsafe { (&raw const (*worker).counters).read() };
    let counted = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let found = Counts {
        requests: counted(&counters.requests),
        errors: counted(&counters.errors),
        refused: counted(&counters.refused),
    };
    // SAFETY: not null, so a place for them.
    unsafe { counts.write(found) };
    0
}
