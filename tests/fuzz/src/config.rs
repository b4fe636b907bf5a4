//! Any text as a configuration: parsed, or refused with words that name a place in it.

use dpfs::runtime::budget::Budget;
use dpfs::runtime::config::Config;

/// Run one input; give the number of devices that it configures.
pub fn run(data: &[u8]) -> usize {
    let Ok(text) = std::str::from_utf8(data) else {
        return 0;
    };
    match Config::parse("fuzz.toml", text) {
        Ok(config) => {
            assert!(!config.devices.is_empty());
            assert!(!config.runtime.cores.is_empty());
            let _ = Budget::of(&config);
            config.devices.len()
        }
        Err(error) => {
            assert!(error.to_string().contains("fuzz.toml"));
            0
        }
    }
}
