//! placeholder
use std::path::Path;
use std::time::Duration;
pub fn run(_: &Path, _: Duration) -> Result<(), String> {
    Err("soon".into())
}
