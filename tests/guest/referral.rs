//! A guest's kernel mounts another file system of the server, or of another server, as one of its own.

use std::fs;
use std::net::TcpListener;

use crate::boot::{Guest, turn};
use crate::daemon::Daemon;
use crate::nfs::{EXPORT, Ganesha, Manner};
use crate::{UML, nothing_is_held};

#[test]
fn a_referral_and_another_file_system_are_mounted_with_device_numbers_of_their_own() {
    let _turn = turn();
    let (home, there) = (
        Ganesha::start(Manner::default()),
        Ganesha::start(Manner::default()),
    );
    home.refer("data", &format!("nfs2.example.org:{EXPORT}"));
    fs::write(there.path("theirs"), "from outside").unwrap();
    // One of the servers is not there, which nobody notices who does not look for it.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = nobody.local_addr().unwrap().port();
    drop(nobody);
    let referrals = format!(
        ", referrals = {{ \"nfs2.example.org\" = \"127.0.0.1:{}\", gone = \"127.0.0.1:{port}\" }}",
        there.port
    );
    let daemon = Daemon::nfs(&home, 1, &referrals);
    UML.run(&daemon, "referral", &[]);
    nothing_is_held(&daemon);
    // An older kernel, whose sub-mounts are not used.
    Guest::uml("6.1").run(&daemon, "referral", &["device=same"]);
    assert_eq!(fs::read(there.path("ours")).unwrap(), b"from inside");
    assert!(!home.path("ours").exists());
    nothing_is_held(&daemon);
    assert_eq!(daemon.gauge("unanswered"), 0);
    assert_eq!(daemon.stop(), Some(0));
    // The same below the root of a server, which is a file system of its own that nobody can write to.
    let address = ([127, 0, 0, 1], there.port).into();
    let daemon = Daemon::export(address, 1, ", export = \"/\"");
    let name = format!("name={}", EXPORT.trim_start_matches('/'));
    UML.run(&daemon, "referral", &[&name, "root=ro"]);
    nothing_is_held(&daemon);
    assert_eq!(daemon.stop(), Some(0));
}
