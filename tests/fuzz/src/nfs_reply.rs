//! Any bytes as what an NFS server sends: answers, read operation by operation as each says it is, and calls of its own.

use dpfs::wire::nfs4::{Callbacks, FsLocations, MAX_OPAQUE, Results, Status, op};
use dpfs::wire::rpc::{self, Message};
use dpfs::wire::xdr::{Decoder, Encoder, Result};

/// Run one input; give the number of operations that were read.
pub fn run(data: &[u8]) -> usize {
    match rpc::parse(data) {
        Ok(Message::Reply {
            outcome: Ok(input), ..
        }) => results(input),
        Ok(Message::Call { xid, arguments, .. }) => callbacks(xid, arguments),
        _ => 0,
    }
}

fn results(input: Decoder<'_>) -> usize {
    let Ok(mut results) = Results::new(input) else {
        return 0;
    };
    let mut count = 0;
    while let Some(number) = results.input().rest().first_chunk() {
        match result(&mut results, u32::from_be_bytes(*number)) {
            Ok(Ok(())) => count += 1,
            Ok(Err(status)) => {
                assert!(!status.is_ok());
                // Every status has a class and an error for the host.
                let _ = (status.class(), status.errno(), status.name());
                break;
            }
            Err(_) => break,
        }
    }
    count
}

/// Walk through all that locations hold, which is sound by now.
fn walk(locations: FsLocations<'_>) {
    assert!(locations.root.count() <= 512);
    for location in locations {
        for name in location.servers.chain(location.path) {
            assert!(name.len() <= MAX_OPAQUE);
        }
    }
}

/// Read the result of an operation.
fn result(results: &mut Results<'_>, number: u32) -> Result<std::result::Result<(), Status>> {
    fn drop_it<T>(
        outcome: Result<std::result::Result<T, Status>>,
    ) -> Result<std::result::Result<(), Status>> {
        outcome.map(|outcome| outcome.map(drop))
    }
    match number {
        op::SEQUENCE => drop_it(results.sequence()),
        op::GETFH => drop_it(results.getfh()),
        // Attributes are read by each of their readers, and the answer goes on behind the first that makes sense of them.
        op::GETATTR => {
            let (mut places, mut server) = (*results, *results);
            let located = places.locations();
            let served = server.server_attr();
            let found = results.getattr();
            if let Ok(Ok(Some(locations))) = located {
                walk(locations);
            }
            match (drop_it(found), drop_it(served), drop_it(located)) {
                (Ok(found), ..) => Ok(found),
                (_, Ok(served), _) => {
                    *results = server;
                    Ok(served)
                }
                (.., located) => {
                    *results = places;
                    located
                }
            }
        }
        op::ACCESS => drop_it(results.access()),
        op::SETATTR => results.setattr(),
        op::CREATE => results.create(),
        op::OPEN => drop_it(results.open()),
        op::CLOSE => results.close(),
        op::READ => {
            let read = results.read()?;
            if let Ok((_, count)) = read {
                let there = results.input().rest().len();
                let data = (count as usize).next_multiple_of(4);
                if data > there {
                    return Err(dpfs::wire::xdr::Malformed);
                }
                results.input().skip(data)?;
            }
            drop_it(Ok(read))
        }
        op::WRITE => drop_it(results.write()),
        op::COMMIT => drop_it(results.commit()),
        op::READDIR => {
            let listed = results.readdir()?;
            if let Ok((_, mut entries)) = listed {
                while entries.next_entry()?.is_ok() {}
            }
            drop_it(Ok(listed))
        }
        op::READLINK => drop_it(results.readlink()),
        op::REMOVE => results.remove(),
        op::RENAME => results.rename(),
        op::LINK => results.link(),
        op::LOCK => drop_it(results.lock()),
        op::LOCKT => drop_it(results.lockt()),
        op::LOCKU => drop_it(results.locku()),
        op::SEEK => drop_it(results.seek()),
        op::COPY => drop_it(results.copy()),
        op::GETXATTR => drop_it(results.getxattr()),
        op::TEST_STATEID => drop_it(results.test_stateid()),
        op::SETXATTR => results.setxattr(),
        op::REMOVEXATTR => results.removexattr(),
        op::LISTXATTRS => drop_it(results.listxattrs(|_| ())),
        op::EXCHANGE_ID => drop_it(results.exchange_id()),
        op::CREATE_SESSION => drop_it(results.create_session()),
        other => results.step(other),
    }
}

fn callbacks(xid: u32, arguments: Decoder<'_>) -> usize {
    let Ok(calls) = Callbacks::new(arguments) else {
        return 0;
    };
    // The tag is at most 1024 bytes, which the answer has, too.
    let mut buffer = [0; 4096];
    let mut out = Encoder::new(&mut buffer);
    rpc::accept(&mut out, xid);
    let mut count = 0;
    let answered = calls.answer(&mut out, 1, |_| {
        count += 1;
        Status::OK
    });
    assert!(answered.is_err() || out.finish().is_some());
    count
}
