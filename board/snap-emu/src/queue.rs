//! One virtqueue of a controller: commands with memory of the DPU, copies from and to the host.

use std::ptr;

use dpfs::hal::Queue;
use dpfs::hal::vhost_user::VhostUserQueue;
use dpfs::mem::{Segment, SegmentList, Token, fill, gather};
use libc::{c_int, c_void, iovec};
use zerocopy::FromZeros;

use crate::bindings::*;
use crate::firmware::complain;

/// Bytes of a command's buffer for each descriptor of its queue.
const SEGMENT: usize = 4096;
/// Longest first descriptor.
const HEADER: usize = 64;
/// Length of the reply's header, and of the first writable descriptor.
const FOOTER: usize = 16;
/// What stands in a buffer that was used before.
const STALE: u8 = 0xa5;
/// Most requests that are begun at a time.
const BURST: usize = 32;

/// A place for one request.
struct Command {
    queue: *mut VirtQueue,
    done: snap_fs_dev_io_done_ctx,
    token: Token,
    /// The host's memory.
    list: Box<SegmentList>,
    header: [u8; HEADER],
    footer: [u8; FOOTER],
    buffer: *mut u8,
    /// For requests that are longer than the buffer.
    long: *mut u8,
    iov: Vec<iovec>,
    /// Waits for its completion.
    pending: bool,
}

/// Hold a queue.
#[expect(clippy::vec_box, reason = "others point to them")]
pub struct VirtQueue {
    ring: VhostUserQueue,
    hiprio: bool,
    depth: usize,
    later: bool,
    ops: snap_fs_dev_ops,
    device: *mut c_void,
    commands: Vec<Box<Command>>,
    /// Commands without a request.
    free: Vec<*mut Command>,
    suspending: bool,
}

impl VirtQueue {
    /// Make a queue; `None` when there is no memory.
    pub fn new(
        ring: VhostUserQueue,
        hiprio: bool,
        depth: u16,
        later: bool,
        ops: snap_fs_dev_ops,
        device: *mut c_void,
    ) -> Option<Box<Self>> {
        let depth = usize::from(depth);
        let mut queue = Box::new(Self {
            ring,
            hiprio,
            depth,
            later,
            ops,
            device,
            commands: Vec::new(),
            free: Vec::new(),
            suspending: false,
        });
        let this = &raw mut *queue;
        for _ in 0..depth {
            let buffer = queue.allocate(depth * SEGMENT)?;
            let mut command = Box::new(Command {
                queue: this,
                done: snap_fs_dev_io_done_ctx {
                    cb: Some(done),
                    user_arg: ptr::null_mut(),
                },
                token: Token(0),
                list: Box::new(SegmentList::new_zeroed()),
                header: [0; HEADER],
                footer: [STALE; FOOTER],
                buffer,
                long: ptr::null_mut(),
                iov: Vec::with_capacity(depth + 2),
                pending: false,
            });
            let place = &raw mut *command;
            command.done.user_arg = place.cast();
            queue.free.push(place);
            queue.commands.push(command);
        }
        Some(queue)
    }

    fn allocate(&self, bytes: usize) -> Option<*mut u8> {
        let malloc = self.ops.dma_malloc?;
        // SAFETY: the program's own function.
        let memory = unsafe { malloc(bytes) }.cast::<u8>();
        (!memory.is_null()).then_some(memory)
    }

    /// Take no more requests.
    pub fn suspend(&mut self) {
        self.suspending = true;
    }

    /// Take requests again.
    pub fn resume(&mut self) {
        self.suspending = false;
    }

    /// Tell whether all requests are done.
    pub fn is_suspended(&self) -> bool {
        self.suspending && self.free.len() == self.commands.len()
    }

    /// Begin what the host has sent; call `live` before the first.
    ///
    /// # Safety
    /// `this` is alive and only this thread uses it. The handler may run anything else meanwhile, and complete other
    /// requests, so no reference is kept across it.
    pub unsafe fn progress(this: *mut Self, live: &dyn Fn()) {
        for _ in 0..BURST {
            // SAFETY: as the caller says.
            let queue = unsafe { &mut *this };
            if queue.suspending {
                break;
            }
            let Some(command) = queue.free.pop() else {
                break;
            };
            // SAFETY: commands live as long as their queue.
            let place = unsafe { &mut *command };
            place.list.clear();
            let Some(token) = queue.ring.poll(&mut place.list) else {
                queue.free.push(command);
                break;
            };
            live();
            place.token = token;
            // SAFETY: as the caller says.
            unsafe { Self::begin(this, command) };
        }
        // SAFETY: as the caller says.
        let queue = unsafe { &mut *this };
        queue.ring.flush();
    }

    /// # Safety
    /// As for [`Self::progress`]; the command has a chain.
    unsafe fn begin(this: *mut Self, command: *mut Command) {
        // SAFETY: as the caller says.
        let (queue, place) = unsafe { (&mut *this, &mut *command) };
        if let Err(why) = queue.frame(place) {
            complain(why);
            queue.fail(place, libc::EINVAL);
            return;
        }
        let (handle, device, later) = (queue.ops.handle_req, queue.device, queue.later);
        let readable = place.list.readable().len();
        let writable = place.list.writable().len();
        place.pending = true;
        let input = place.iov.as_mut_ptr();
        let output = if writable > 0 {
            // SAFETY: the array has both parts.
            unsafe { input.add(readable) }
        } else {
            ptr::null_mut()
        };
        let done = &raw mut place.done;
        let handle = handle.expect("a controller is opened with a handler");
        // SAFETY: the program's own function; everything lent lives until the request is done.
        let result = unsafe {
            handle(
                device,
                input,
                readable as c_int,
                output,
                writable as c_int,
                done,
            )
        };
        // SAFETY: as the caller says; the handler may have used them meanwhile.
        let (queue, place) = unsafe { (&mut *this, &mut *command) };
        match result {
            0 => queue.finish(place),
            libc::EWOULDBLOCK if later => {}
            _ => queue.fail(place, libc::EIO),
        }
    }

    /// Check the chain, copy what the host wrote, and lay out the handler's view.
    fn frame(&self, command: &mut Command) -> Result<(), &'static str> {
        let (readable, writable) = (command.list.readable(), command.list.writable());
        if readable.len() + writable.len() > self.depth {
            return Err("a chain has more descriptors than the queue");
        }
        let first = readable
            .first()
            .ok_or("a chain begins with a writable descriptor")?;
        if first.len() > HEADER {
            return Err("the first descriptor is longer than a header");
        }
        match writable.first() {
            Some(_) if self.hiprio => return Err("a writable descriptor in the hiprio queue"),
            None if !self.hiprio => return Err("no writable descriptor"),
            Some(first) if first.len() != FOOTER => {
                return Err("the first writable descriptor is not a reply's header");
            }
            _ => {}
        }
        let rest =
            |segments: &[Segment]| -> usize { segments.iter().skip(1).map(Segment::len).sum() };
        let (sent, wanted) = (rest(readable), rest(writable));
        let buffer = if sent + wanted <= self.depth * SEGMENT {
            command.buffer
        } else {
            command.long = self
                .allocate(sent + wanted)
                .ok_or("no memory for a long request")?;
            command.long
        };
        let header = first.len();
        command.iov.clear();
        let mut at = buffer;
        for (index, segment) in readable.iter().chain(writable).enumerate() {
            let base = match index {
                0 => command.header.as_mut_ptr(),
                index if index == readable.len() => command.footer.as_mut_ptr(),
                _ => {
                    let base = at;
                    // SAFETY: all of them fit the buffer.
                    at = unsafe { at.add(segment.len()) };
                    base
                }
            };
            command.iov.push(iovec {
                iov_base: base.cast(),
                iov_len: segment.len(),
            });
        }
        let head = gather(readable, 0, &mut command.header[..header]);
        // SAFETY: `sent` bytes at the buffer's start, which nobody else uses now.
        let body = unsafe { std::slice::from_raw_parts_mut(buffer, sent) };
        let body = gather(readable, header, body);
        if head.is_err() || body.is_err() {
            return Err("a chain changed its length");
        }
        command.footer.fill(STALE);
        // SAFETY: `wanted` bytes behind those, of the same buffer.
        unsafe { ptr::write_bytes(buffer.add(sent), STALE, wanted) };
        Ok(())
    }

    /// Send all writable descriptors whole, and give the chain back.
    fn finish(&mut self, command: &mut Command) {
        let writable = command.list.writable();
        let mut offset = 0;
        for iov in command.iov.iter().skip(command.list.readable().len()) {
            // SAFETY: memory of this command, which the handler is done with.
            let bytes =
                unsafe { std::slice::from_raw_parts(iov.iov_base.cast::<u8>(), iov.iov_len) };
            let sent = fill(writable, offset, bytes);
            debug_assert!(sent.is_ok());
            offset += iov.iov_len;
        }
        self.put(command, offset as u32);
    }

    /// Answer with an error, where there is room for it.
    fn fail(&mut self, command: &mut Command, error: c_int) {
        let mut footer = [0; FOOTER];
        footer[4..8].copy_from_slice(&(-error).to_le_bytes());
        let sent = match fill(command.list.writable(), 0, &footer) {
            Ok(()) => FOOTER as u32,
            Err(_) => 0,
        };
        self.put(command, sent);
    }

    fn put(&mut self, command: &mut Command, sent: u32) {
        self.release(command);
        command.pending = false;
        self.ring.complete(command.token, sent);
        self.free.push(command);
    }

    fn release(&self, command: &mut Command) {
        if let Some(free) = self.ops.dma_free
            && !command.long.is_null()
        {
            // SAFETY: allocated by its counterpart.
            unsafe { free(command.long.cast()) };
        }
        command.long = ptr::null_mut();
    }
}

/// Complete a request whose handler said that it would be later.
///
/// # Safety
/// `user_arg` is a command's own.
unsafe extern "C" fn done(status: snap_fs_dev_op_status, user_arg: *mut c_void) {
    let command = user_arg.cast::<Command>();
    // SAFETY: the context that the handler got names a command, which lives as long as its queue.
    let (queue, place) = unsafe { (&mut *(*command).queue, &mut *command) };
    if !queue.later || !place.pending {
        complain("a request was completed that was not waited for");
        std::process::abort();
    }
    if status == SNAP_FS_DEV_OP_SUCCESS {
        queue.finish(place);
    } else {
        queue.fail(place, libc::EIO);
    }
    queue.ring.flush();
}

impl Drop for VirtQueue {
    fn drop(&mut self) {
        for mut command in std::mem::take(&mut self.commands) {
            self.release(&mut command);
            if let Some(free) = self.ops.dma_free {
                // SAFETY: allocated by its counterpart.
                unsafe { free(command.buffer.cast()) };
            }
        }
    }
}
