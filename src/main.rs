//! The `dpfs` daemon.
use dpfs::runtime::{config::Config, serve};

fn main() {
    let file = std::env::args().nth(3).expect("dpfs serve -c FILE");
    let config = Config::load(std::path::Path::new(&file)).unwrap_or_else(|e| {
        eprintln!("{e}");
        std::process::exit(2)
    });
    if let Err(error) = serve(&config) {
        eprintln!("{error}");
        std::process::exit(1)
    }
}
