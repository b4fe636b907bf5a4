//! Requests through the FUSE layer: what a backend is asked, and what the host is told.

mod arguments;
mod damage;
mod interrupts;
mod replies;
mod session;
