//! Service locators: where a server is, in words, like `tcp:host=10.0.0.5,port=11100`.
//!
//! A locator may name several ways to a server, with `;` between them; the first by TCP is taken. Source: RAMCloud,
//! `src/ServiceLocator.h`.

/// Name of the transport that is spoken here.
const TCP: &str = "tcp:";

/// Read host and port of the first way by TCP; `None` when there is none.
pub fn tcp(locator: &str) -> Option<(&str, u16)> {
    let options = locator
        .split(';')
        .find_map(|way| way.trim().strip_prefix(TCP))?;
    let mut host = None;
    let mut port = None;
    for option in options.split(',') {
        let (name, value) = option.split_once('=')?;
        let value = value.trim().trim_matches('"');
        match name.trim() {
            "host" => host = Some(value).filter(|host| !host.is_empty()),
            "port" => port = value.parse().ok().filter(|&port: &u16| port != 0),
            _ => {}
        }
    }
    Some((host?, port?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_by_tcp_is_found() {
        for (locator, wanted) in [
            ("tcp:host=127.0.0.1,port=11100", Some(("127.0.0.1", 11100))),
            ("infud:host=h;tcp: port=1, host=\"h\"; x:", Some(("h", 1))),
            ("tcp:host=h,port=1,devport=2", Some(("h", 1))),
            ("tcp:host=h", None),
            ("tcp:host=,port=1", None),
            ("tcp:host=h,port=0", None),
            ("tcp:host=h,port=65536", None),
            ("tcp:", None),
            ("infrc:host=h,port=1", None),
            ("", None),
        ] {
            assert_eq!(tcp(locator), wanted, "{locator}");
        }
    }
}
