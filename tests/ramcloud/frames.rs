//! The wire code, byte for byte, against frames recorded from a real coordinator and master (`frames.txt`).

use dpfs::wire::ramcloud::config::{Server, Tablet, servers, tablets};
use dpfs::wire::ramcloud::hash::key_hash;
use dpfs::wire::ramcloud::reply::{self, Head, Listed, Object};
use dpfs::wire::ramcloud::{HEAD_LEN, Lease, Once, Request, Rules, Status};

const RECORDED: &str = include_str!("frames.txt");

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    digits
        .map(|two| u8::from_str_radix(str::from_utf8(two).unwrap(), 16).unwrap())
        .collect()
}

/// Give request and reply of the exchange with this title.
fn exchange(title: &str) -> (Vec<u8>, Vec<u8>) {
    let heading = format!("# {title} status=");
    let mut lines = RECORDED
        .lines()
        .skip_while(|line| !line.starts_with(&heading));
    lines.next().unwrap_or_else(|| panic!("{title}"));
    let mut frame = |direction: &str| bytes(lines.next().unwrap().strip_prefix(direction).unwrap());
    (frame("> "), frame("< "))
}

/// Compare a request with what was recorded, and give the payload of the reply.
fn check(title: &str, request: &Request<'_>, value: &[u8]) -> Vec<u8> {
    let (asked, mut answer) = exchange(title);
    let nonce = u64::from_le_bytes(asked[..8].try_into().unwrap());
    let mut written = vec![0; 256];
    let len = request.emit(nonce, &mut written).unwrap();
    written.truncate(len);
    written.extend(value);
    assert_eq!(written, asked, "{title}");
    let head = Head::parse(&answer).unwrap().unwrap();
    assert_eq!(
        (head.nonce, head.len),
        (nonce, answer.len() - HEAD_LEN),
        "{title}"
    );
    answer.split_off(HEAD_LEN)
}

fn status(title: &str, request: &Request<'_>) -> Status {
    reply::status(&check(title, request, &[])).unwrap()
}

const LEASE: Lease = Lease {
    id: 1,
    expiration: 0x01a4_8ca2_d948,
    timestamp: 0x0001_7446_8948,
};
const ANY: Rules = Rules {
    version: None,
    absent: false,
    exists: false,
};

fn once(rpc: u64, ack: u64) -> Once {
    Once {
        lease: LEASE,
        rpc,
        ack,
    }
}

#[test]
fn the_coordinator_is_asked_and_understood() {
    let create = Request::CreateTable {
        name: b"data",
        span: 1,
    };
    let made = check("CREATE_TABLE name \"data\", span 1", &create, &[]);
    assert_eq!(reply::number(&made), Ok(1));
    let found = check(
        "GET_TABLE_ID name \"data\"",
        &Request::GetTableId(b"data"),
        &[],
    );
    assert_eq!(
        (reply::status(&found), reply::number(&found)),
        (Ok(Status::Ok), Ok(1))
    );
    let absent = status(
        "GET_TABLE_ID name \"none\" (absent)",
        &Request::GetTableId(b"none"),
    );
    assert_eq!(absent, Status::TableDoesntExist);

    let list = check("GET_SERVER_LIST mask 1", &Request::GetServerList(1), &[]);
    let list: Vec<_> = servers(reply::message(&list).unwrap()).collect();
    let locator = b"tcp:host=127.0.0.1,port=11101";
    let server = Server {
        services: 9,
        id: 1,
        locator,
    };
    assert_eq!(list, [Ok(server)]);

    let config = check("GET_TABLE_CONFIG ", &Request::GetTableConfig(1), &[]);
    let tablet = Tablet {
        table: 1,
        hashes: (0, u64::MAX),
        serves: true,
        server: 1,
        locator,
    };
    let config: Vec<_> = tablets(reply::message(&config).unwrap()).collect();
    assert_eq!(config, [Ok(tablet)]);
    assert_eq!(
        status("DROP_TABLE name \"data\"", &Request::DropTable(b"data")),
        Status::Ok
    );
    let dropped = "GET_TABLE_CONFIG of a dropped table";
    let config = check(dropped, &Request::GetTableConfig(1), &[]);
    assert_eq!(tablets(reply::message(&config).unwrap()).count(), 0);
}

#[test]
fn a_lease_is_given_renewed_and_looked_at() {
    let given = check("RENEW_LEASE new lease", &Request::RenewLease(0), &[]);
    assert_eq!(reply::lease(&given), Ok(LEASE));
    let renewed = check("RENEW_LEASE renew it", &Request::RenewLease(1), &[]);
    let renewed = reply::lease(&renewed).unwrap();
    assert!(renewed.id == 1 && renewed.expiration > LEASE.expiration);
    let looked = check("GET_LEASE_INFO ", &Request::GetLeaseInfo(1), &[]);
    assert_eq!(
        reply::lease(&looked).unwrap().expiration,
        renewed.expiration
    );
}

#[test]
fn objects_are_written_read_and_removed() {
    let write = |key, rpc, ack, rules, value: &[u8]| Request::Write {
        table: 1,
        once: once(rpc, ack),
        rules,
        key,
        value: value.len(),
    };
    let read = |key, rules| Request::Read {
        table: 1,
        key,
        rules,
    };
    let value = [b'A'; 32];
    let done = check(
        "WRITE k1 = 32 x \"A\"",
        &write(b"k1", 1, 0, ANY, &value),
        &value,
    );
    assert_eq!(
        (reply::status(&done), reply::number(&done)),
        (Ok(Status::Ok), Ok(1))
    );
    let found = check("READ k1", &read(b"k1", ANY), &[]);
    let object = Object::parse(&found, found.len()).unwrap();
    assert_eq!((object.version, object.len), (1, 32));
    assert_eq!(found[Object::LEN..], value);

    let version = Rules {
        version: Some(99),
        ..ANY
    };
    let title = "READ k1, reject if version != 99";
    assert_eq!(status(title, &read(b"k1", version)), Status::WrongVersion);
    let there = Rules {
        absent: true,
        ..ANY
    };
    let title = "READ absent key, reject if it does not exist";
    assert_eq!(
        status(title, &read(b"nope", there)),
        Status::ObjectDoesntExist
    );
    let title = "READ absent key, no rules";
    assert_eq!(
        status(title, &read(b"nope", ANY)),
        Status::ObjectDoesntExist
    );

    let new = Rules {
        exists: true,
        ..ANY
    };
    let refused = check(
        "WRITE k1, reject if it exists",
        &write(b"k1", 2, 1, new, b"B"),
        b"B",
    );
    assert_eq!(reply::status(&refused), Ok(Status::ObjectExists));
    let title = "WRITE k1, reject if version != 99";
    let refused = check(title, &write(b"k1", 3, 2, version, b"B"), b"B");
    assert_eq!(reply::status(&refused), Ok(Status::WrongVersion));

    let done = check("WRITE k2 = \"x\"", &write(b"k2", 4, 3, ANY, b"x"), b"x");
    let again = "WRITE k2 = \"y\" with the rpcId already used: the saved result comes back";
    let saved = check(again, &write(b"k2", 4, 4, ANY, b"y"), b"y");
    assert_eq!(saved, done);
    let found = check("READ k2: still \"x\"", &read(b"k2", ANY), &[]);
    assert_eq!(found[Object::LEN..], *b"x");
    let stale = check(
        "WRITE rpcId 0 is refused",
        &write(b"k3", 0, 4, ANY, b"n"),
        b"n",
    );
    assert_eq!(reply::status(&stale), Ok(Status::StaleRpc));

    let increment = Request::Increment {
        table: 1,
        once: once(5, 4),
        rules: ANY,
        key: b"ctr",
        by: (5, 0.0),
    };
    let sum = check("INCREMENT ctr += 5", &increment, &[]);
    assert_eq!(sum[12..], 5u64.to_le_bytes());
    let remove = |rpc, ack| Request::Remove {
        table: 1,
        once: once(rpc, ack),
        rules: ANY,
        key: b"k2",
    };
    let removed = check("REMOVE k2", &remove(6, 5), &[]);
    assert_eq!(reply::number(&removed), Ok(2));
    let absent = check("REMOVE k2 again (absent), no rules", &remove(7, 6), &[]);
    assert_eq!(
        (reply::status(&absent), reply::number(&absent)),
        (Ok(Status::Ok), Ok(0))
    );
    let title = "READ table id that does not exist";
    let elsewhere = Request::Read {
        table: 9999,
        key: b"k1",
        rules: ANY,
    };
    assert_eq!(status(title, &elsewhere), Status::UnknownTablet);
}

#[test]
fn objects_are_listed_to_the_end() {
    let ask = |iterator| Request::Enumerate {
        table: 1,
        keys_only: false,
        first_hash: 0,
        iterator,
    };
    let found = check("ENUMERATE keys and values, from hash 0", &ask(&[]), &[]);
    let listed = Listed::parse(&found, found.len()).unwrap();
    let (mut objects, iterator) = found[Listed::LEN..].split_at(listed.objects);
    let mut keys = Vec::new();
    while !objects.is_empty() {
        let size = reply::size(objects).unwrap();
        keys.push(reply::key(&objects[reply::SIZE_LEN..][..size]).unwrap());
        objects = &objects[reply::SIZE_LEN + size..];
    }
    assert_eq!(keys, [&b"k2"[..], b"k1", b"ctr"]);
    assert_eq!((listed.next_hash, listed.iterator), (0, iterator.len()));
    let end = check("ENUMERATE continued", &ask(iterator), &[]);
    let listed = Listed::parse(&end, end.len()).unwrap();
    assert_eq!(
        (listed.next_hash, listed.objects, listed.iterator),
        (0, 0, 0)
    );
}

#[test]
fn keys_are_hashed_as_there() {
    let mut count = 0;
    for line in RECORDED.lines() {
        let Some(line) = line.strip_prefix("# hash table=") else {
            continue;
        };
        let (table, line) = line.split_once(" key=").unwrap();
        let (key, hash) = line.split_once(' ').unwrap();
        let key = if key == "-" { vec![] } else { bytes(key) };
        let wanted = u64::from_str_radix(hash, 16).unwrap();
        assert_eq!(key_hash(table.parse().unwrap(), &key), wanted, "{line}");
        count += 1;
    }
    assert_eq!(count, 12);
}

/// No frame of a real master was recorded: this is what the source says (`WireFormat::MultiOp`).
#[test]
fn a_multi_read_is_laid_out_as_the_source_says() {
    let request = Request::MultiRead {
        table: 0x1122,
        keys: &[b"k1", b"key"],
    };
    let wanted = [
        "0700000000000000", // nonce
        "3d000000",         // length
        "19000000",         // MULTI_OP, of a master
        "0200000001000000", // two parts, read
        "22110000000000000200000000000000000000000000",
        "6b31",
        "22110000000000000300000000000000000000000000",
        "6b6579",
    ];
    let mut written = [0; 128];
    let len = request.emit(7, &mut written).unwrap();
    assert_eq!(written[..len], bytes(&wanted.concat()));
    assert_eq!(request.emit(7, &mut [0; 72]), None);
}
