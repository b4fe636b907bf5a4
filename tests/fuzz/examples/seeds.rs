//! Write the seeds of every target: `cargo run --example seeds`, in `tests/fuzz`.
//!
//! They are inputs that go deep, made of the requests that a Linux kernel and the messages that QEMU and User-Mode
//! Linux send; the fuzzer changes them from there. Run it again after a change of a target's input, and commit what it
//! wrote.

use std::fs;
use std::path::{Path, PathBuf};

use dpfs::wire::fuse::{Opcode, SetxattrIn};
use dpfs::wire::vhost_user::ProtocolFeatures;
use dpfs_fuzz::tape::Writer;
use dpfs_fuzz::{fuse_decode, vhost_user_message, virtq_chain};
use dpfs_harness::{Message, samples};
use dpfs_image::initramfs::{self, Added, Overlay};
use dpfs_image::{Image, ImageId, Stream};

const CONFIGS: [(&str, &str); 4] = [
    (
        "smallest",
        "[[device]]\ntag = \"a\"\nhal = { kind = \"vhost-user\", socket = \"/run/a.sock\" }\nbackend = { kind = \"null\" }\n",
    ),
    (
        "all_keys",
        r#"[runtime]
cores = [0, 1]
polling = "adaptive"
log = "debug"
dir = "/run/dpfs"
sandbox = "none"
[[device]]
tag = "projects"
hal = { kind = "vhost-user", socket = "/run/dpfs/projects.sock", queues = 4, depth = 512 }
backend = { kind = "local", path = "/srv/projects", cache = "auto", read_only = true }
client_arch = "aarch64"
limits = { iops = 20000, bandwidth = "1GiB", nodes = 1000000, open_files = 1000 }
"#,
    ),
    (
        "two_devices",
        r#"[[device]]
tag = "a"
hal = { kind = "fuse", mountpoint = "/mnt/a", queues = 2, depth = 64 }
backend = { kind = "null", file_size = "4KiB" }
[[device]]
tag = "b"
hal = { kind = "vhost-user", socket = "/run/b.sock" }
backend = { kind = "local", path = "/srv", cache = "none" }
"#,
    ),
    (
        "wrong_in_many_ways",
        "[runtime]\ncores = [1, 1, -1]\npolling = \"buzy\"\n[[device]]\ntag = \"\"\nhal = { kind = \"snap\" }\nbackend = 7\nlimits = { nodes = \"x\" }\nextra = 1\n",
    ),
];

/// What a server answers: greetings, slots of a cluster, values, refusals, a broken end.
const REPLIES: [(&str, &str); 4] = [
    (
        "hello",
        "%3\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n$7\r\nmodules\r\n*0\r\n",
    ),
    (
        "cluster_slots",
        "*1\r\n*3\r\n:0\r\n:16383\r\n*4\r\n$9\r\n127.0.0.1\r\n:7000\r\n$4\r\nabcd\r\n%1\r\n+hostname\r\n$1\r\nh\r\n",
    ),
    (
        "pipeline",
        "$4\r\n\r\n\r\n\r\n_\r\n:-1\r\n,1.5\r\n(12\r\n#t\r\n~1\r\n+a\r\n|1\r\n+k\r\n+v\r\n>1\r\n+p\r\n=5\r\ntxt:a\r\n!3\r\nERR\r\n",
    ),
    (
        "refusals",
        "-MOVED 3999 127.0.0.1:6381\r\n-ASK 1 ::1:6381\r\n-TRYAGAIN x\r\n-LOADING x\r\n-OOM x\r\n-READONLY x\r\n*2\r\n$3\r\nab",
    ),
];

fn write(target: &str, name: &str, input: &[u8]) {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "seeds", target]
        .iter()
        .collect();
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join(name), input).expect("a file");
}

/// Give a sample, with little data.
fn short(opcode: Opcode) -> Message {
    let mut message = samples::sample(opcode);
    if opcode == Opcode::WRITE {
        message.body.truncate(40 + 256);
        message.body[16..20].copy_from_slice(&256_u32.to_le_bytes());
    }
    message
}

fn fuse_decode() {
    let mut all = Writer::default().u8(0);
    for &opcode in Opcode::ALL {
        let message = short(opcode);
        let request = message.unique(8).bytes();
        let room = 16 + short(opcode).room.unwrap_or(0);
        let send = |tape, step, size| fuse_decode::send(tape, step, 0, &request, room, size);
        let tape = send(Writer::default().u8(0), fuse_decode::Step::Send, 255);
        write(
            "fuse_decode",
            &opcode.name().to_lowercase(),
            &send(tape, fuse_decode::Step::SendKept, 7).finish(),
        );
        if opcode != Opcode::DESTROY {
            all = send(all, fuse_decode::Step::SendKept, 64);
        }
    }
    let round = Writer::default().u8(fuse_decode::Step::Round as u8).u8(0);
    write("fuse_decode", "all_pending", &all.then(round).finish());
    // An INTERRUPT on the other core, and the short form of SETXATTR before any INIT.
    let target = short(Opcode::SETLKW).unique(1 << 40).bytes();
    let tape = fuse_decode::send(
        Writer::default().u8(0),
        fuse_decode::Step::SendKept,
        0,
        &target,
        16,
        255,
    );
    let interrupt = short(Opcode::INTERRUPT).unique(9).bytes();
    let tape = fuse_decode::send(tape, fuse_decode::Step::Send, 1, &interrupt, 16, 255);
    let round = Writer::default().u8(fuse_decode::Step::Round as u8).u8(0);
    write(
        "fuse_decode",
        "interrupt_of_another_core",
        &tape.then(round).finish(),
    );
    let early = Message::new(Opcode::SETXATTR)
        .arg(&SetxattrIn::default())
        .name("k")
        .bytes();
    let tape = fuse_decode::send(
        Writer::default().u8(1),
        fuse_decode::Step::Send,
        0,
        &early,
        16,
        255,
    );
    write("fuse_decode", "before_init", &tape.finish());
}

fn virtq_chain() {
    use virtq_chain::{Step, begin, data, describe, indirect};
    for (name, flags) in [("plain", 0), ("event_index", 1), ("indirect", 3)] {
        let mut tape = begin(flags, 4, 0xfffe);
        // Three requests: header and arguments, room for header and body.
        for (round, opcode) in [Opcode::GETATTR, Opcode::LOOKUP, Opcode::READ]
            .into_iter()
            .enumerate()
        {
            let (index, len) = (round as u8 * 4, short(opcode).bytes().len() as u16);
            let at = round as u16 * 4096;
            let number = Opcode::ALL
                .iter()
                .position(|&other| other == opcode)
                .expect("listed") as u8;
            tape = data(tape.u8(Step::Request as u8).u8(number), at);
            if flags & 2 != 0 {
                let table = 0xa000 + 64 * round as u16;
                tape = indirect(tape, table, at, 40, 1, 1);
                tape = indirect(tape, table + 16, at + 40, len - 40, 1, 2);
                tape = indirect(tape, table + 32, at + 1024, 16, 3, 3);
                tape = indirect(tape, table + 48, at + 1040, 3000, 2, 0);
                tape = describe(tape, index, table, 64, 4, 0);
            } else {
                tape = describe(tape, index, at, 40, 1, index + 1);
                tape = describe(tape, index + 1, at + 40, len - 40, 1, index + 2);
                tape = describe(tape, index + 2, at + 1024, 16, 3, index + 3);
                tape = describe(tape, index + 3, at + 1040, 3000, 2, 0);
            }
            tape = tape.u8(Step::Offer as u8).u8(index).u8(Step::Take as u8);
        }
        let tape = tape
            .u8(Step::Arm as u8)
            .u8(Step::Disarm as u8)
            .u8(Step::GiveBack as u8);
        write("virtq_chain", name, &tape.finish());
    }
    let tape = describe(begin(0, 2, 0), 0, 0, 40, 1, 0);
    let tape = tape
        .u8(Step::Offer as u8)
        .u8(0)
        .u8(Step::Take as u8)
        .u8(Step::Index as u8)
        .u16(0x4000);
    write(
        "virtq_chain",
        "loop_and_runaway_index",
        &tape.u8(Step::Take as u8).finish(),
    );
}

fn vhost_user_message() {
    use vhost_user_message::{Step, negotiate, share, work};
    let usual = ProtocolFeatures::all() - ProtocolFeatures::INBAND_NOTIFICATIONS;
    for (name, protocol) in [
        ("usual", usual),
        ("inband", ProtocolFeatures::all()),
        ("no_extensions", ProtocolFeatures::empty()),
    ] {
        let mut tape = work(share(negotiate(protocol)));
        for queue in 0..3 {
            // GET_VRING_BASE stops a queue.
            tape = tape.u8(Step::State as u8).u8(2).u8(queue).u32(0);
        }
        write("vhost_user_message", name, &tape.finish());
    }
    // Memory that comes and goes.
    let region = |tape: Writer, remove| tape.u8(Step::Region as u8).u8(remove).u8(0).u8(0);
    let tape = work(region(negotiate(usual), 0));
    let tape = region(region(region(tape, 1), 0), 1).u8(Step::Sync as u8);
    write("vhost_user_message", "regions", &tape.finish());
    // A record of what is in flight: asked for, and brought back.
    let area = |bytes: u64| {
        let (queues, size) = (3_u16.to_le_bytes(), 64_u16.to_le_bytes());
        [&bytes.to_le_bytes()[..], &[0; 8], &queues, &size].concat()
    };
    let tape = negotiate(usual)
        .u8(Step::Raw as u8)
        .u8(31)
        .u8(1)
        .u8(0)
        .run(&area(0));
    let tape = tape
        .u8(Step::Sync as u8)
        .u8(Step::Raw as u8)
        .u8(32)
        .u8(1)
        .u8(1)
        .u8(3);
    let tape = work(share(tape.run(&area(0x1_0000))));
    write("vhost_user_message", "inflight", &tape.finish());
    // Every request number, with an empty payload or one of 64 bytes.
    let mut tape = work(share(negotiate(usual)));
    for request in 0..48 {
        let raw = tape.u8(Step::Raw as u8).u8(request).u8(1).u8(1).u8(1);
        tape = raw.run(if request % 2 == 0 { &[0; 64] } else { &[] });
    }
    write("vhost_user_message", "every_number", &tape.finish());
}

fn boot_stream() {
    let image = |name: &str, version, data: &[u8]| Image {
        id: ImageId::of(name).expect("a name"),
        version,
        data: data.to_vec().into(),
    };
    let put = |name: &str, images: Vec<Image>, trailing: &[u8]| {
        let mut bytes = Vec::new();
        let stream = Stream { images, trailing };
        stream.write(&mut bytes, |_| ()).expect("a Vec takes all");
        write("boot_stream", name, &bytes);
    };
    put("smallest", vec![image("boot-desc", 0, b"Linux")], b"");
    let versions = [0, 1, 2].map(|version| image("boot-args", version, b"console=hvc0"));
    put("versions", versions.to_vec(), b"");
    let cut = vec![image("bl2", 1, b"1"), image("image", 0, b"")];
    put("with_a_script", cut, b"UPDATE_DPU_OS=no\n");
    let mut files = Overlay::from([
        ("etc".to_string(), Added::folder()),
        (
            "etc/passwd".to_string(),
            Added::file(0o644, b"root\n".to_vec()),
        ),
        ("lib".to_string(), Added::link("usr/lib")),
    ]);
    let end = b"07070100000000000000000000000000000000000000010000000000000000000000000000000000000000000000000000000b00000000TRAILER!!!\0\0\0\0";
    let plain = initramfs::merge(end, &files, 0).expect("an empty archive");
    put("initramfs", vec![image("initramfs", 0, &plain)], b"");
    files.insert("init".into(), Added::file(0o755, vec![7; 300]));
    let more = initramfs::merge(end, &files, 1).expect("an empty archive");
    let both = [plain, vec![0; 512], more].concat();
    put("archives", vec![image("initramfs", 0, &both)], b"");
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    let byte = |digits| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
    digits.map(byte).collect()
}

/// Answers to multi-reads, made: an object of two keys, one that is not there, and one of a tablet that moved.
const MULTI_READS: [(&str, &str); 2] = [
    (
        "multi_found",
        "07000000000000002500000000000000010000000000000009000000000000000d00000002010003\
         0061626376616c7565",
    ),
    (
        "multi_none",
        "0800000000000000280000000000000002000000030000000000000000000000eeeeeeee01000000\
         0000000000000000eeeeeeee",
    ),
];

fn main() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    let _ = fs::remove_dir_all(seeds);
    for (name, text) in CONFIGS {
        write("config", name, text.as_bytes());
    }
    for (name, text) in REPLIES {
        write("resp_reply", name, text.as_bytes());
    }
    let captured = include_str!("../captures/nfs_reply.txt").lines();
    for (number, line) in captured.filter(|line| !line.starts_with('#')).enumerate() {
        write("nfs_reply", &number.to_string(), &bytes(line));
    }
    let recorded = include_str!("../../ramcloud/frames.txt").lines();
    for (number, line) in recorded
        .filter_map(|line| line.strip_prefix("< "))
        .enumerate()
    {
        write("ramcloud_reply", &number.to_string(), &bytes(line));
    }
    for (name, line) in MULTI_READS {
        write("ramcloud_reply", name, &bytes(line));
    }
    boot_stream();
    fuse_decode();
    virtq_chain();
    vhost_user_message();
}
