//! Functions that are reset, suspended, switched on and off, plugged in and taken away.

use std::fs;

use dpfs::hal::snap::{self, SnapError};
use dpfs::wire::errno::Errno;

use crate::bed::{Bed, MOVING, STEADY, VFS, config, file};
use crate::chain::{echo, send};
use crate::frontend::{FrontEnd, Guest, eventually};

#[test]
fn a_function_that_is_reset_under_load_serves_the_next_driver() {
    let bed = Bed::new(vec![config(STEADY, 0, Some(8))], 2);
    let function = &bed.functions[0];
    for round in 1..=20 {
        let mut guest = Guest::new(3);
        let front_end = FrontEnd::boot(function.socket(), &guest);
        let taken = function.orders.taken();
        function.orders.hold(true);
        for slot in 0..10 {
            send(
                &mut guest,
                1 + slot as usize % 2,
                slot,
                &[&[round as u8; 40]],
                &[16, 100],
            );
        }
        eventually("requests are under way", || function.orders.taken() > taken);
        // The host is gone; what is under way ends some time later.
        drop(front_end);
        function.orders.hold(false);
        eventually("the session ends", || function.orders.resets() == round);
    }
    let mut guest = Guest::new(3);
    let _front_end = FrontEnd::boot(function.socket(), &guest);
    echo(&mut guest, 1, b"as if nothing had been");
}

#[test]
fn a_function_that_stops_ends_what_is_under_way_first() {
    let mut bed = Bed::new(vec![config(STEADY, 0, Some(9))], 2);
    let mut guest = Guest::new(3);
    let function = &mut bed.functions[0];
    let _front_end = FrontEnd::boot(function.socket(), &guest);
    let orders = function.orders;
    orders.hold(true);
    let sent = send(&mut guest, 1, 0, &[&[1; 40]], &[16, 100]);
    eventually("it is under way", || orders.taken() == 1);
    let late = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(200));
        orders.hold(false);
    });
    function.control.stop();
    assert!(!orders.holds(), "it waited");
    late.join().unwrap();
    let used = guest.drivers[1].reap().expect("answered before the end");
    assert_eq!((used.head, used.written), (sent.head, 116));
    assert!(!function.socket().exists());
    assert_eq!(orders.resets(), 1);
}

#[test]
fn a_stop_does_not_wait_for_ever_for_what_does_not_end() {
    let mut bed = Bed::new(vec![config(STEADY, 0, Some(10))], 2);
    let mut guest = Guest::new(3);
    let function = &mut bed.functions[0];
    let _front_end = FrontEnd::boot(function.socket(), &guest);
    function.orders.hold(true);
    let sent = send(&mut guest, 1, 0, &[&[1; 40]], &[16, 100]);
    eventually("it is under way", || function.orders.taken() == 1);
    function.control.stop();
    assert!(function.orders.holds() && function.socket().exists());
    assert_eq!(
        guest.drivers[1].reap(),
        None,
        "nobody answered for the backend"
    );
    function.orders.hold(false);
    assert_eq!(guest.reap(1).head, sent.head);
}

#[test]
fn vfs_come_and_go_as_the_host_says() {
    let vfs = file(&format!("{MOVING}-pf0.vfs"));
    let want = |count: u32| fs::write(&vfs, count.to_string()).unwrap();
    let beyond = VFS + 1;
    let configs = vec![config(MOVING, 0, None), config(MOVING, 0, Some(beyond))];
    let bed = Bed::new(configs, 2);
    let (pf, vf) = (&bed.functions[0], &bed.functions[1]);
    let mut pf_guest = Guest::new(3);
    let _pf_front_end = FrontEnd::boot(pf.socket(), &pf_guest);
    echo(&mut pf_guest, 1, b"the physical function");
    for round in 1..=3 {
        assert!(!vf.socket().exists(), "the host has not switched it on");
        want(beyond + 1);
        eventually("the VF appears", || vf.socket().exists());
        let mut guest = Guest::new(3);
        let front_end = FrontEnd::boot(vf.socket(), &guest);
        echo(&mut guest, 2, b"the virtual function");
        // A well-behaved host has unbound the driver before; another one has not.
        if round % 2 == 0 {
            drop(front_end);
        }
        want(0);
        eventually("the VF is gone", || !vf.socket().exists());
        echo(&mut pf_guest, 1, b"the physical function stays");
    }
    assert!(vf.orders.resets() >= 3);
    assert_eq!(pf.orders.resets(), 0);
}

#[test]
fn a_function_is_plugged_in_and_taken_away() {
    let plugged = || {
        let managers = snap::managers();
        let manager = managers.iter().find(|manager| manager.name == MOVING);
        let (limits, pfs) = manager.unwrap().found.clone().unwrap();
        assert!(limits.hotplug);
        pfs[2].plugged
    };
    let mut wanted = config(MOVING, 2, None);
    wanted.tag = "plugged".into();
    // Keeps the manager open, so that its state is seen.
    let other = Bed::new(vec![config(MOVING, 1, None)], 1);
    assert!(!plugged());
    let bed = Bed::new(vec![wanted], 1);
    assert!(plugged());
    let mut guest = Guest::new(3);
    let _front_end = FrontEnd::boot(bed.functions[0].socket(), &guest);
    echo(&mut guest, 1, b"plugged in");
    drop(bed);
    assert!(!plugged());
    drop(other);
}

#[test]
fn what_cannot_be_opened_is_named() {
    let failed = |config| Bed::try_new(vec![config], 1).err().expect("refused");
    let error = failed(config("mlx5_9", 0, None));
    assert_eq!(
        error,
        SnapError::NoManager("mlx5_9".into(), vec![STEADY.into(), MOVING.into()])
    );
    assert!(
        error.to_string().ends_with("allowed: mlx5_0, mlx5_1"),
        "{error}"
    );
    assert_eq!(failed(config(STEADY, 3, None)), SnapError::NoPf(3, 3));
    let mut many = config(STEADY, 0, None);
    many.request_queues = 5;
    assert_eq!(failed(many), SnapError::Queues(6, 5));
    let unplugged = failed(config(STEADY, 2, Some(0)));
    assert_eq!(unplugged, SnapError::Unplugged(2, Errno::EOPNOTSUPP));
    let mut nameless = config(STEADY, 0, None);
    nameless.tag.clear();
    assert!(matches!(failed(nameless), SnapError::Invalid(_)));
    let bed = Bed::new(vec![config(STEADY, 1, Some(15))], 1);
    let error = failed(config(STEADY, 1, Some(15)));
    assert_eq!(
        error,
        SnapError::Controller("mlx5_0 pf 1 vf 15".into(), Errno::EBUSY)
    );
    drop(bed);
    drop(Bed::new(vec![config(STEADY, 1, Some(15))], 1));
}
