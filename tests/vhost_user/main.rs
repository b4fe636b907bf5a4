//! The vhost-user device against a front-end of our own, over a real socket and real shared memory.
#![cfg(feature = "vhost-user")]

mod bed;
mod frontend;

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bed::{Bed, echo};
use dpfs::sys::epoll::Epoll;
use dpfs::sys::eventfd::EventFd;
use dpfs::sys::memfd;
use dpfs::wire::vhost_user::ProtocolFeatures;
use frontend::*;
use zerocopy::IntoBytes;

#[test]
fn requests_go_round_on_every_queue() {
    let bed = Bed::new(2);
    let mut guest = Guest::new(3);
    let front_end = FrontEnd::boot(&bed.path, &guest);
    assert_eq!(front_end.number(GET_QUEUE_NUM), 3);
    assert_eq!(front_end.number(GET_MAX_MEM_SLOTS), 64);
    for round in 0..300u32 {
        for queue in 0..3 {
            echo(&mut guest, queue, &round.to_ne_bytes());
        }
    }
    assert_eq!(bed.resets(), 0);
}

#[test]
fn the_configuration_space_has_tag_and_queues_in_the_frame_of_the_request() {
    let bed = Bed::new(2);
    let mut front_end = FrontEnd::connect(&bed.path);
    front_end.negotiate();
    let ask = |offset: u32, size: u32, content: usize| {
        let mut payload = [offset.to_ne_bytes(), size.to_ne_bytes(), [0; 4]].concat();
        payload.resize(12 + content, 0xaa);
        let reply = front_end.ask(GET_CONFIG, &payload);
        assert_eq!(reply.len(), payload.len());
        assert_eq!(reply[..8], payload[..8]);
        reply[12..].to_vec()
    };
    let whole = ask(0, 40, 40);
    assert_eq!(whole[..9], *b"projects\0");
    assert_eq!(whole[36..], 2u32.to_ne_bytes());
    assert_eq!(ask(36, 4, 4), 2u32.to_ne_bytes());
    assert_eq!(ask(38, 8, 12), [0; 12]);
}

/// The order of messages and the sizes are those of Linux `arch/um/drivers/virtio_uml.c`.
#[test]
fn user_mode_linux_is_understood() {
    let bed = Bed::new(1);
    let mut guest = Guest::new(2);
    let mut front_end = FrontEnd::connect(&bed.path);
    let offered = front_end.negotiate();
    assert!(offered.contains(ProtocolFeatures::CONFIG));
    assert!(
        !offered.contains(ProtocolFeatures::INBAND_NOTIFICATIONS),
        "UML would use them, and be slow"
    );
    let mut table = words(&[1], &[GUEST, BYTES, USER, 0]);
    table.resize(72, 0);
    front_end.tell(SET_MEM_TABLE, &table, &[guest.file.raw()]);
    for queue in 0..2 {
        let word = (queue as u64).to_ne_bytes();
        front_end.tell(SET_VRING_CALL, &word, &[guest.calls[queue].raw()]);
        front_end.describe(queue, 0);
    }
    for queue in 0..2 {
        let word = (queue as u64).to_ne_bytes();
        front_end.tell(SET_VRING_KICK, &word, &[guest.kicks[queue].raw()]);
        front_end.state(SET_VRING_ENABLE, queue, 1);
    }
    echo(&mut guest, 1, b"mount");
    for queue in [1, 0] {
        front_end.state(SET_VRING_ENABLE, queue, 0);
    }
    front_end.number(GET_FEATURES);
    guest.send(1, b"nobody looks");
    // The core that serves both answers on the other queue, and so has passed by this one.
    front_end.state(SET_VRING_ENABLE, 0, 1);
    echo(&mut guest, 0, b"hiprio");
    assert_eq!(guest.drivers[1].reap(), None);
    front_end.state(SET_VRING_ENABLE, 1, 1);
    assert_eq!(guest.reap(1).written, 12, "it only had to wait");
}

#[test]
fn interrupts_over_a_socket_reach_the_guest() {
    let bed = Bed::new(1);
    let mut guest = Guest::new(2);
    let front_end = FrontEnd::boot(&bed.path, &guest);
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let word = 1u64.to_ne_bytes();
    front_end.tell(SET_VRING_CALL, &word, &[theirs.as_raw_fd()]);
    drop(theirs);
    assert!(guest.drivers[1].arm());
    guest.send(1, b"x");
    ours.set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    // One may come for the change of the socket itself: what came before may have gone to the old one.
    loop {
        let mut bytes = [0; 8];
        std::io::Read::read_exact(&mut &ours, &mut bytes).unwrap();
        assert_eq!(bytes, 1u64.to_ne_bytes());
        if guest.drivers[1].reap().is_some() {
            break;
        }
    }
    drop(ours);
    // Nobody reads any more: the core goes on all the same.
    guest.send(1, b"y");
    eventually("a reply", || guest.drivers[1].reap().is_some());
}

#[test]
fn memory_is_added_and_removed_under_load() {
    let bed = Bed::new(1);
    let mut guest = Guest::new(2);
    let front_end = FrontEnd::boot(&bed.path, &guest);
    let more = memfd::create(c"dpfs-test-more", 0x2_0000).unwrap();
    let region = words(&[0], &[0x4000_0000, 0x1_0000, USER + 0x4000_0000, 0x1_0000]);
    for _ in 0..20 {
        for _ in 0..8 {
            guest.send(1, b"in flight");
        }
        front_end.tell(ADD_MEM_REG, &region, &[more.raw()]);
        guest.send_at(1, 0x4000_0000, 8, 0x4000_0000 + 0x1_0000 - 64);
        for _ in 0..9 {
            assert!(guest.reap(1).written >= 8);
        }
        front_end.tell(REM_MEM_REG, &region, &[]);
        guest.send_at(1, 0x4000_0000, 8, 0x4000_0000);
        assert_eq!(guest.reap(1).written, 0, "outside the memory now");
    }
    assert_eq!(front_end.try_tell(REM_MEM_REG, &region, &[]), Some(1));
    echo(&mut guest, 1, b"still there");
}

#[test]
fn a_region_that_cannot_be_is_refused_and_changes_nothing() {
    let bed = Bed::new(1);
    let mut guest = Guest::new(2);
    let front_end = FrontEnd::boot(&bed.path, &guest);
    let fd = guest.file.raw();
    for region in [
        [GUEST, BYTES, USER, 0],
        [0x4000_0000, 0, USER + 0x4000_0000, 0],
        [0x4000_0000, BYTES + 1, USER + 0x4000_0000, 0],
        [0x4000_0000, BYTES, USER + 0x4000_0000, 1],
        [0x4000_0000, 4096, USER + 0x4000_0000, u64::MAX],
        [u64::MAX, 4096, USER + 0x4000_0000, 0],
        [0x4000_0000, 4096, USER, 0],
        [0x4000_0000, u64::MAX, USER + 0x4000_0000, 4096],
    ] {
        let payload = words(&[0], &region);
        assert_eq!(front_end.try_tell(ADD_MEM_REG, &payload, &[fd]), Some(1));
    }
    let payload = words(&[0], &[0x4000_0000, 4096, USER + 0x4000_0000, 0]);
    assert_eq!(front_end.try_tell(ADD_MEM_REG, &payload, &[]), Some(1));
    assert_eq!(
        front_end.try_tell(ADD_MEM_REG, &payload, &[fd, fd]),
        Some(1)
    );
    echo(&mut guest, 1, b"still there");
}

#[test]
fn a_paused_guest_goes_on_with_its_session_and_a_rebooted_one_does_not() {
    let bed = Bed::new(1);
    let mut guest = Guest::new(2);
    let front_end = FrontEnd::boot(&bed.path, &guest);
    front_end.tell(SET_STATUS, &15u64.to_ne_bytes(), &[]);
    assert_eq!(front_end.number(GET_STATUS), 15);
    for round in 0..3 {
        echo(&mut guest, 1, b"before");
        for queue in 0..2 {
            front_end.state(SET_VRING_ENABLE, queue, 0);
        }
        let bases = [0, 1].map(|queue| front_end.stop(queue));
        assert_eq!(bases, [0, 2 * round + 1]);
        front_end.tell(SET_STATUS, &0u64.to_ne_bytes(), &[]);
        guest.send(1, b"while it sleeps");
        for (queue, base) in bases.into_iter().enumerate() {
            front_end.start(&guest, queue, base);
        }
        assert_eq!(guest.reap(1).written, 15);
    }
    assert_eq!(bed.resets(), 0, "the guest was only paused");

    let bases = [0, 1].map(|queue| front_end.stop(queue));
    assert_eq!(bases, [0, 6]);
    let mut reborn = Guest::new(2);
    let table = words(&[1], &[GUEST, BYTES, USER, 0]);
    front_end.tell(SET_MEM_TABLE, &table, &[reborn.file.raw()]);
    for queue in 0..2 {
        front_end.start(&reborn, queue, 0);
    }
    assert_eq!(bed.resets(), 1, "begins anew");
    echo(&mut reborn, 1, b"after");

    front_end.tell(RESET_DEVICE, &[], &[]);
    assert_eq!(bed.resets(), 2);
    reborn.send(1, b"nobody looks");
    // The core that serves both answers on the other queue, and so has passed by this one.
    front_end.tell(SET_MEM_TABLE, &table, &[reborn.file.raw()]);
    front_end.start(&reborn, 0, 0);
    echo(&mut reborn, 0, b"hiprio");
    assert_eq!(reborn.drivers[1].reap(), None);
}

#[test]
fn a_front_end_that_dies_ends_the_session_and_the_next_one_is_served() {
    let bed = Bed::new(1);
    for round in 1..=5 {
        let mut guest = Guest::new(2);
        let front_end = FrontEnd::boot(&bed.path, &guest);
        echo(&mut guest, 1, b"mount");
        for _ in 0..8 {
            guest.send(1, b"in flight");
        }
        drop(front_end);
        bed.reset_comes(round);
    }
}

#[test]
fn the_next_front_end_waits_until_the_first_is_gone() {
    let bed = Bed::new(1);
    let mut guest = Guest::new(2);
    let first = FrontEnd::boot(&bed.path, &guest);
    let second = FrontEnd::connect(&bed.path);
    second.send(GET_FEATURES, &[], &[], false);
    echo(&mut guest, 1, b"undisturbed");
    drop(first);
    let (header, _, _) = second.receive().unwrap();
    assert_eq!(header.request, GET_FEATURES);
}

/// Where the process of the next test connects.
const CONNECT: &str = "DPFS_TEST_CONNECT";

#[test]
#[ignore = "runs in a process of its own, started by the next test"]
fn connect_and_leave_the_socket_to_another_process() {
    let socket = std::os::unix::net::UnixStream::connect(std::env::var(CONNECT).unwrap()).unwrap();
    let holder = std::process::Command::new("sleep")
        .arg("10")
        .stdin(std::os::fd::OwnedFd::from(socket))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn();
    assert!(holder.is_ok());
}

/// User-Mode Linux leaves processes that hold its socket when it is killed.
#[test]
fn the_next_front_end_takes_over_when_the_process_of_the_first_is_dead() {
    let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    if dpfs::sys::socket::peer_process(ours.as_raw_fd()).is_err() {
        eprintln!("skipped: this kernel does not tell who connected (Linux 6.5)");
        return;
    }
    let bed = Bed::new(1);
    let first = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "connect_and_leave_the_socket_to_another_process",
        ])
        .env(CONNECT, &bed.path)
        .output()
        .unwrap();
    assert!(first.status.success());
    let mut guest = Guest::new(2);
    let _front_end = FrontEnd::boot(&bed.path, &guest);
    echo(&mut guest, 1, b"served");
}

#[test]
fn what_was_in_flight_is_done_again_when_the_front_end_comes_back() {
    let bed = Bed::new(1);
    let mut guest = Guest::new(2);
    let mut front_end = FrontEnd::connect(&bed.path);
    front_end.negotiate();
    let mut area = vec![0; 24];
    area[16] = 2;
    area[18] = SIZE as u8;
    front_end.send(GET_INFLIGHT_FD, &area, &[], false);
    let (_, area, record) = front_end.receive().unwrap();
    assert_eq!((area.len(), record.len()), (24, 1));
    front_end.tell(SET_INFLIGHT_FD, &area, &[record[0].raw()]);
    front_end.share(&guest);
    for queue in 0..2 {
        front_end.start(&guest, queue, 0);
    }
    echo(&mut guest, 1, b"done");
    bed.hold(true);
    let heads: Vec<u16> = (0..4).map(|_| guest.send(1, b"in flight")).collect();
    eventually("all taken", || bed.taken() == 5);
    // The front-end dies. Its requests get five seconds and are then abandoned.
    drop(front_end);
    guest.send(1, b"never taken");

    let mut front_end = FrontEnd::connect(&bed.path);
    front_end.negotiate();
    front_end.share(&guest);
    front_end.tell(SET_INFLIGHT_FD, &area, &[record[0].raw()]);
    // What was abandoned completes now, and must not be published twice.
    bed.hold(false);
    for queue in 0..2 {
        // The front-end knows only how far the driver is.
        front_end.start(&guest, queue, if queue == 1 { 6 } else { 0 });
    }
    let back: Vec<u16> = (0..5).map(|_| guest.reap(1).head).collect();
    assert_eq!(back[..4], heads, "in the order in which they were taken");
    assert_eq!(bed.resets(), 0, "the session goes on");
    echo(&mut guest, 1, b"and on");
    drop(front_end);

    // One that brings no record is another guest.
    let guest = Guest::new(2);
    let _front_end = FrontEnd::boot(&bed.path, &guest);
    assert_eq!(bed.resets(), 1);
}

#[test]
fn a_request_that_ends_after_the_stop_does_not_touch_the_guest() {
    let bed = Bed::new(1);
    let mut guest = Guest::new(2);
    let front_end = FrontEnd::boot(&bed.path, &guest);
    echo(&mut guest, 1, b"before");
    bed.hold(true);
    let slot = DATA + 0x1_0000 + u64::from(SIZE) * 512;
    guest.send(1, b"late");
    eventually("taken", || bed.taken() == 2);
    // Both wait for the held request together, not one after the other.
    let began = std::time::Instant::now();
    let bases = [1, 0].map(|queue| front_end.stop(queue));
    assert!(began.elapsed() < Duration::from_secs(8));
    assert_eq!(bases, [2, 0]);
    guest.write(slot + 256, b"mine");
    bed.hold(false);
    // The device goes on in the same memory.
    front_end.start(&guest, 0, 0);
    front_end.start(&guest, 1, 2);
    guest.send_at(1, GUEST + DATA, 4, GUEST + DATA + 256);
    assert_eq!(guest.reap(1).written, 4, "and not the late one's");
    assert_eq!(guest.drivers[1].reap(), None);
    assert_eq!(guest.read(slot + 256, 4), b"mine");
    assert_eq!(bed.resets(), 0);
}

#[test]
fn notifications_may_be_messages() {
    let bed = Bed::with(1, true);
    let mut guest = Guest::new(2);
    let mut front_end = FrontEnd::connect(&bed.path);
    let offered = front_end.negotiate();
    assert!(offered.contains(ProtocolFeatures::INBAND_NOTIFICATIONS));
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    front_end.tell(SET_BACKEND_REQ_FD, &[], &[theirs.as_raw_fd()]);
    front_end.share(&guest);
    for queue in 0..2 {
        front_end.describe(queue, 0);
        front_end.state(SET_VRING_ENABLE, queue, 1);
    }
    ours.set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    for round in 0..20 {
        assert!(guest.drivers[1].arm());
        let head = guest.send(1, b"in band");
        front_end.state(VRING_KICK, 1, 0);
        let mut message = [0; 20];
        std::io::Read::read_exact(&mut &ours, &mut message).unwrap();
        let expected = [4u32, 1, 8, 1, 0].map(u32::to_ne_bytes).concat();
        assert_eq!(message[..], expected[..], "{round}");
        guest.drivers[1].disarm();
        assert_eq!(guest.drivers[1].reap().map(|used| used.head), Some(head));
    }
}

#[test]
fn a_corrupt_queue_stands_still_and_says_so_until_it_is_reset() {
    let bed = Bed::new(1);
    let mut guest = Guest::new(2);
    let front_end = FrontEnd::boot(&bed.path, &guest);
    let error = EventFd::new().unwrap();
    front_end.tell(SET_VRING_ERR, &1u64.to_ne_bytes(), &[error.raw()]);
    echo(&mut guest, 1, b"sound");
    // The available index of queue 1 jumps.
    guest.write(0x4000 + 0x1000 + 2, &1000u16.to_ne_bytes());
    guest.kicks[1].notify();
    let wait = Epoll::new().unwrap();
    wait.add(error.raw(), 0).unwrap();
    assert_eq!(wait.wait(5000, |_| {}), Ok(1));
    echo(&mut guest, 0, b"the other queue is served");
    front_end.tell(RESET_DEVICE, &[], &[]);
    let mut fresh = Guest::new(2);
    let table = words(&[1], &[GUEST, BYTES, USER, 0]);
    front_end.tell(SET_MEM_TABLE, &table, &[fresh.file.raw()]);
    for queue in 0..2 {
        front_end.start(&fresh, queue, 0);
    }
    echo(&mut fresh, 1, b"sound again");
}

/// Give the number of this process's descriptors of a memfd with this name.
fn open_files(name: &str) -> usize {
    std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| target.to_string_lossy().contains(name))
        .count()
}

#[test]
fn garbage_costs_the_connection_and_nothing_else() {
    let bed = Bed::new(1);
    let file = memfd::create(c"dpfs-test-garbage", 4096).unwrap();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for round in 0..400 {
        let front_end = FrontEnd::connect(&bed.path);
        if round % 2 == 0 {
            front_end.send(
                SET_PROTOCOL_FEATURES,
                &(1u64 << 3 | 1 << 12 | 1 << 13 | 1 << 15 | 1 << 16).to_ne_bytes(),
                &[],
                false,
            );
        }
        for _ in 0..random() % 6 + 1 {
            let len = (random() % 80) as usize;
            let mut payload: Vec<u8> = (0..len).map(|_| random() as u8 & random() as u8).collect();
            if random() % 2 == 0 {
                let small = (random() % 3).to_ne_bytes();
                let count = small.len().min(payload.len());
                payload[..count].copy_from_slice(&small[..count]);
            }
            let request = (random() % 44) as u32;
            let header = dpfs::wire::vhost_user::Header {
                request,
                flags: if random() % 8 == 0 {
                    random() as u32
                } else {
                    1
                },
                size: if random() % 8 == 0 {
                    random() as u32
                } else {
                    len as u32
                },
            };
            let mut bytes = header.as_bytes().to_vec();
            bytes.extend(payload);
            let fds = vec![file.raw(); (random() % 4) as usize];
            // The other side may have hung up already.
            let _ = dpfs::sys::socket::send_with_fds(front_end.socket.as_raw_fd(), &bytes, &fds);
        }
    }
    let mut guest = Guest::new(2);
    let front_end = FrontEnd::boot(&bed.path, &guest);
    echo(&mut guest, 1, b"unharmed");
    eventually("every descriptor is closed", || {
        open_files("dpfs-test-garbage") == 1
    });
    drop(front_end);
}

#[test]
fn too_many_descriptors_cost_the_connection() {
    let bed = Bed::new(1);
    let front_end = FrontEnd::connect(&bed.path);
    let file = memfd::create(c"dpfs-test-many", 4096).unwrap();
    front_end.send(SET_OWNER, &[], &[file.raw(); 32], false);
    front_end.number(GET_FEATURES);
    // Half of the message with 32 descriptors, then the other half with one more.
    let header = dpfs::wire::vhost_user::Header::request(SET_OWNER, 8, false);
    let halves = [header.as_bytes(), &[0; 8]];
    for (half, count) in halves.into_iter().zip([32, 1]) {
        let fds = vec![file.raw(); count];
        let sent = dpfs::sys::socket::send_with_fds(front_end.socket.as_raw_fd(), half, &fds);
        assert_eq!(sent, Ok(half.len()));
    }
    assert!(front_end.is_closed());
    eventually("every descriptor is closed", || {
        open_files("dpfs-test-many") == 1
    });
}

#[test]
fn a_stop_ends_the_connection_and_removes_the_socket() {
    let mut bed = Bed::new(1);
    let mut guest = Guest::new(2);
    let front_end = FrontEnd::boot(&bed.path, &guest);
    bed.hold(true);
    guest.send(1, b"in flight");
    eventually("taken", || bed.taken() == 1);
    let orders = Arc::clone(&bed.orders);
    let wake = Arc::clone(&bed.wake);
    let later = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        orders.hold.store(false, Ordering::SeqCst);
        wake.notify();
    });
    bed.control.stop();
    assert!(!bed.path.exists());
    assert!(front_end.is_closed());
    assert_eq!(guest.reap(1).written, 9, "what was in flight is answered");
    later.join().unwrap();
}
