//! What the recorder answers.

use std::time::Duration;

use dpfs::fuse::{
    Attributes, Created, DirEntries, DirEntriesPlus, Entry, Fh, NodeId, Opened, Reply, StatxReply,
    XattrValue,
};
use dpfs::wire::fuse::{Attr, FopenFlags, Statx};

/// The node that the recorder answers with.
pub fn entry() -> Entry {
    Entry {
        node: NodeId(77),
        generation: 5,
        attr: attr(),
        entry_ttl: Duration::new(3, 4),
        attr_ttl: Duration::new(1, 2),
    }
}

/// The attributes that the recorder answers with.
pub fn attr() -> Attr {
    Attr {
        ino: 77,
        size: 1000,
        mode: 0o100_644,
        nlink: 1,
        ..Attr::default()
    }
}

/// The open file that the recorder answers with.
pub fn opened() -> Opened {
    Opened {
        fh: Fh(88),
        flags: FopenFlags::KEEP_CACHE,
    }
}

/// Byte that the recorder fills buffers with.
pub const FILL: u8 = 0x42;

pub(crate) fn answer_attr(reply: Reply<Attributes>) {
    reply.ok(Attributes {
        attr: attr(),
        ttl: Duration::new(1, 2),
    });
}

pub(crate) fn answer_created(reply: Reply<Created>) {
    reply.ok(Created {
        entry: entry(),
        opened: opened(),
    });
}

/// Fill the room, or say that the value is 9 bytes long.
pub(crate) fn answer_xattr(reply: Reply<XattrValue>) {
    match reply.wanted() {
        0 => reply.length(9),
        room => reply.ok(&vec![FILL; room]),
    }
}

pub(crate) fn answer_readdir(reply: Reply<DirEntries>) {
    let mut at = 0;
    while let Some(next) = reply.push(at, 9, at as u64, 8, b"some name") {
        at = next;
    }
    reply.ok(at);
}

pub(crate) fn answer_readdirplus(reply: Reply<DirEntriesPlus>) {
    let mut at = 0;
    while reply.fits(at, 9) {
        let next = reply.push(at, Some(&entry()), 9, at as u64, 8, b"some name");
        at = next.expect("said to fit");
    }
    assert_eq!(reply.push(at, None, 9, 1, 4, b"some name"), None);
    reply.ok(at);
}

pub(crate) fn answer_statx(reply: Reply<StatxReply>) {
    let stat = Statx {
        ino: 77,
        ..Statx::default()
    };
    reply.ok(StatxReply {
        stat,
        ttl: Duration::from_secs(1),
    });
}
