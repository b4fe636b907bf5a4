//! A host that mounted the root of a scripted server.

use std::ops::{Deref, DerefMut};

use dpfs::backend::nfs::served::{self, Config};
use dpfs::backend::nfs::{Nfs, NfsVolume};
use dpfs::wire::nfs4::Status;

use crate::fake::{Act, Fake, Server};
use crate::host::{ROOT, Rounds, config, core};

/// Hold a server, and a host that mounted its root.
pub struct Mounted {
    host: dpfs_harness::Host<Nfs>,
    pub volume: &'static NfsVolume,
    pub fake: Fake,
}

impl Deref for Mounted {
    type Target = dpfs_harness::Host<Nfs>;

    fn deref(&self) -> &Self::Target {
        &self.host
    }
}

impl DerefMut for Mounted {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.host
    }
}

impl Mounted {
    /// Mount the root of a server that starts for it.
    pub fn new() -> Self {
        Self::with(|_| ())
    }

    /// Mount for a host that gives up soon.
    pub fn soft() -> Self {
        Self::with(|config| {
            config.options.soft = true;
            config.options.timeo = 300_000_000;
            config.options.retrans = 3;
        })
    }

    /// Mount as the changed configuration says.
    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::of(Fake::start(), change)
    }

    /// Mount the root of this server.
    pub fn of(fake: Fake, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config(fake.port);
        config.export = "/".into();
        change(&mut config);
        let volume = served::open(&config).unwrap();
        let mut host = core(volume);
        host.getattr(ROOT, None).unwrap();
        Self { host, volume, fake }
    }

    /// Do the `skip`th next operation of this kind, and `times` of them in all, as the act says.
    pub fn at(&self, operation: u32, skip: u32, times: u32, act: Act) {
        self.fake.server().at(operation, skip, times, act);
    }

    /// Refuse the next operation of this kind.
    pub fn refuse(&self, operation: u32, status: Status) {
        self.fake.server().refuse(operation, status);
    }

    /// Run rounds until the server is as is said.
    ///
    /// # Panics
    /// When that takes more than 20 seconds.
    pub fn until(&mut self, wanted: impl Fn(&mut Server) -> bool) {
        Rounds::until(self, |host| wanted(&mut host.fake.server()));
    }

    /// Check that the script was played, and that the slots were used as they are to be.
    pub fn check(&mut self) {
        assert!(self.fake.server().script.is_over(), "not all was played");
        assert_eq!(self.fake.server().script.misused, 0, "slots were misused");
        assert_eq!(self.bed.unanswered(), 0);
    }
}
