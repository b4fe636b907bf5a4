//! What is done before a volume is served: ask an engine one thing at a time, and wait.

use zerocopy::IntoBytes;

use super::engine::{
    Busy, Check, Client, Done, Engine, Expect, Failure, Key, Op, Record, Token, Write,
};
use super::record::{Inode, MAGIC, ROOT, Time, mode};
use crate::mem::Segment;
use crate::sys::time::Instant;

/// Say why a volume cannot be served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetupError {
    /// The engine failed.
    Engine(Failure),
    /// The store holds something else.
    Foreign,
}

impl core::fmt::Display for SetupError {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Engine(failure) => write!(out, "the engine failed: {failure:?}"),
            Self::Foreign => write!(
                out,
                "the store holds another format; this version reads \"dpfs-kv-tree-1\""
            ),
        }
    }
}

/// Take the records of one operation.
struct Caller<'f> {
    record: &'f mut dyn FnMut(Record<'_>),
    result: Option<Result<Done, Failure>>,
}

impl Client for Caller<'_> {
    fn record(&mut self, _: Token, record: Record<'_>) {
        (self.record)(record);
    }

    fn buffers(&self, _: Token) -> &[Segment] {
        &[]
    }

    fn payload(&self, _: Token) -> &[Segment] {
        &[]
    }

    fn done(&mut self, _: Token, result: Result<Done, Failure>) {
        self.result = Some(result);
    }
}

/// Run one operation to its end, waiting for it. Not for a core that serves: nothing else may be under way.
///
/// # Errors
/// What the engine says.
pub fn call<E: Engine>(
    engine: &mut E,
    op: &Op<'_>,
    record: &mut dyn FnMut(Record<'_>),
) -> Result<Done, Failure> {
    let mut caller = Caller {
        record,
        result: None,
    };
    while engine.submit(Token(0), op, &mut caller) == Err(Busy) {
        engine.poll(Instant::now(), &mut caller);
    }
    loop {
        engine.poll(Instant::now(), &mut caller);
        if let Some(result) = caller.result {
            return result;
        }
        core::hint::spin_loop();
    }
}

/// Make an empty volume where there is none, and check the format of one that is there. A new one is durable with the
/// next Sync.
///
/// # Errors
/// [`SetupError`].
pub fn prepare<E: Engine>(engine: &mut E) -> Result<(), SetupError> {
    let mut known = None;
    let op = Op::Get {
        keys: &[Key::Volume],
        follow: false,
    };
    call(engine, &op, &mut |record| {
        known = Some(record.value == MAGIC);
    })
    .map_err(SetupError::Engine)?;
    match known {
        Some(true) => return Ok(()),
        Some(false) => return Err(SetupError::Foreign),
        None => {}
    }
    let now = Time::now();
    let root = Inode {
        ino: ROOT,
        parent: ROOT,
        mode: mode::S_IFDIR | 0o755,
        nlink: 2,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
        ..Inode::default()
    };
    let op = Op::Transact {
        checks: &[Check {
            key: Key::Volume,
            expect: Expect::Absent,
        }],
        writes: &[
            Write::Put(Key::Volume, MAGIC),
            Write::Put(Key::Inode(ROOT), root.as_bytes()),
        ],
    };
    match call(engine, &op, &mut |_| ()) {
        // Another daemon made it at the same time.
        Err(Failure::Conflict) => Ok(()),
        Err(failure) => Err(SetupError::Engine(failure)),
        Ok(_) => Ok(()),
    }
}
