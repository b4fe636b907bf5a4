//! Why a shared table takes nothing more.

/// Say why a table did not take an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The table holds as many entries as it was configured for.
    Full,
    /// The request belongs to another session than the table: its host rebooted or unmounted meanwhile.
    StaleEpoch,
}

/// Tell whether session `epoch` began after session `than`. Epochs count modulo 2^32.
pub(super) const fn is_newer(epoch: u32, than: u32) -> bool {
    (epoch.wrapping_sub(than) as i32) > 0
}
