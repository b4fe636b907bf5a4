//! Guests: a real kernel boots, mounts the device and runs a job (`tests/rig/jobs`).

use std::process::{Child, Command, Stdio};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::daemon::{Daemon, rig};

/// Which tests may run at the same time.
static MACHINE: RwLock<()> = RwLock::new(());

/// Wait for the turn of a test with one guest. There are as many at a time as the test runner has threads, which is one
/// for each core: a guest and its daemon mostly wait for each other, and together use less than a core.
pub fn turn() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

/// Wait for the turn of a test that wants the machine for itself: it has two guests, or its servers take a slow peer for
/// a dead one.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Kill a guest: the rig ends all of its processes at once, as a power cut would.
pub fn end(boot: &mut Child) {
    let pid = boot.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .expect("kill runs")
            .success()
    );
    boot.wait().expect("our own child");
}

/// Describe how to boot.
#[derive(Clone, Copy)]
pub struct Guest {
    /// `--uml` or `--qemu`.
    pub machine: &'static str,
    /// Version of the kernel: 6.1, 6.12 or 7.2.
    pub kernel: &'static str,
    /// CPUs and request queues; User-Mode Linux has one of each.
    pub cpus: u32,
}

impl Guest {
    /// User-Mode Linux of a version.
    pub const fn uml(kernel: &'static str) -> Self {
        Self {
            machine: "--uml",
            kernel,
            cpus: 1,
        }
    }

    /// Give the command that boots and runs a job.
    pub fn command(self, daemon: &Daemon, job: &str, arguments: &[&str]) -> Command {
        let cpus = self.cpus.to_string();
        let mut command = Command::new(rig("boot"));
        command
            .args([self.machine, self.kernel, "--tag", "dpfs", "--job", job])
            .args(["--timeout", "1200", "--socket"])
            .arg(daemon.socket())
            .stdin(Stdio::null());
        if self.cpus > 1 {
            command.args(["--cpus", &cpus, "--queues", &cpus]);
        }
        for argument in arguments {
            command.args(["--arg", argument]);
        }
        command
    }

    /// Boot, run a job to its end and give what the console showed.
    ///
    /// # Panics
    /// When the job fails.
    pub fn run(self, daemon: &Daemon, job: &str, arguments: &[&str]) -> String {
        let out = self
            .command(daemon, job, arguments)
            .output()
            .expect("the rig boots");
        let console = String::from_utf8_lossy(&out.stdout).into_owned();
        let errors = String::from_utf8_lossy(&out.stderr);
        assert!(
            out.status.success(),
            "job {job} on {} {}: {}\n{console}\n{errors}",
            self.machine,
            self.kernel,
            out.status
        );
        // Shown by cargo when a later check fails, or with --nocapture.
        println!("{console}");
        console
    }

    /// Boot and run a job beside the test; its console goes to the test's own output.
    pub fn spawn(self, daemon: &Daemon, job: &str, arguments: &[&str]) -> Child {
        self.command(daemon, job, arguments)
            .spawn()
            .expect("the rig boots")
    }
}
