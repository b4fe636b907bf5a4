//! ONC RPC over a stream: records, calls with AUTH_SYS or AUTH_NONE, replies; how a client asks for TLS. Source: RFC 5531,
//! RFC 9289.

use super::xdr::{Decoder, Encoder, Malformed, Result};

/// Bytes of a record's mark.
pub const MARK_LEN: usize = 4;
/// The mark's bit for the last fragment of a record.
const LAST: u32 = 1 << 31;

const CALL: u32 = 0;
const REPLY: u32 = 1;
const VERSION: u32 = 2;

const AUTH_NONE: u32 = 0;
const AUTH_SYS: u32 = 1;
const AUTH_TLS: u32 = 7;

/// Number of the procedure that does nothing, which every program has.
const NULL: u32 = 0;
/// What a server's verifier holds that goes on with TLS (RFC 9289, section 4.1).
const STARTTLS: &[u8] = b"STARTTLS";

/// Most supplementary groups of AUTH_SYS.
pub const MAX_GROUPS: usize = 16;
/// Longest name of a machine in AUTH_SYS.
pub const MAX_MACHINE: usize = 255;
/// Most bytes of credentials or of a verifier.
const MAX_AUTH: usize = 400;

/// Read a record's mark: bytes of the fragment, and whether it is the record's last.
pub const fn parse_mark(mark: [u8; MARK_LEN]) -> (usize, bool) {
    let mark = u32::from_be_bytes(mark);
    ((mark & !LAST) as usize, mark & LAST != 0)
}

/// Make the mark of a record that is one fragment.
pub const fn mark(len: usize) -> [u8; MARK_LEN] {
    (len as u32 | LAST).to_be_bytes()
}

/// Say in whose name a call is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Credentials {
    /// Nobody's (AUTH_NONE).
    None,
    /// A user's of the host (AUTH_SYS).
    Sys {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
        /// The one supplementary group that the host sent.
        group: Option<u32>,
    },
}

/// Begin a call: everything up to the procedure's arguments. The record's mark is left to be filled in.
///
/// `machine` is the name that AUTH_SYS carries.
pub fn call(
    out: &mut Encoder<'_>,
    xid: u32,
    program: u32,
    version: u32,
    procedure: u32,
    machine: &[u8],
    credentials: &Credentials,
) {
    out.u32(0);
    for word in [xid, CALL, VERSION, program, version, procedure] {
        out.u32(word);
    }
    match *credentials {
        Credentials::None => {
            out.u32(AUTH_NONE);
            out.u32(0);
        }
        Credentials::Sys { uid, gid, group } => {
            out.u32(AUTH_SYS);
            let len_at = out.len();
            out.u32(0);
            out.u32(0);
            out.opaque(machine);
            out.u32(uid);
            out.u32(gid);
            match group {
                None => out.u32(0),
                Some(group) => {
                    out.u32(1);
                    out.u32(group);
                }
            }
            let len = out.len().saturating_sub(len_at + 4);
            out.patch(len_at, len as u32);
        }
    }
    out.u32(AUTH_NONE);
    out.u32(0);
}

/// Tell what a message of the peer is.
#[derive(Clone, Copy, Debug)]
pub enum Message<'a> {
    /// An answer to our call `xid`.
    Reply {
        /// The call.
        xid: u32,
        /// What became of it: its results, or why there are none.
        outcome: core::result::Result<Decoder<'a>, Denied>,
    },
    /// A call of the peer (NFSv4.1's backchannel).
    Call {
        /// The call.
        xid: u32,
        /// Program.
        program: u32,
        /// Version of the program.
        version: u32,
        /// Procedure.
        procedure: u32,
        /// Arguments.
        arguments: Decoder<'a>,
    },
}

/// Say why a call has no results.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denied {
    /// The server does not speak our version of RPC.
    Version,
    /// The server does not take these credentials (`auth_stat`).
    Credentials(u32),
    /// The program, its version or procedure is not there, or it could not read the call (`accept_stat`).
    Program(u32),
}

/// Read a message, its record's mark taken off.
///
/// # Errors
/// [`Malformed`] when it is none.
pub fn parse(message: &[u8]) -> Result<Message<'_>> {
    let mut input = Decoder::new(message);
    let xid = input.u32()?;
    match input.u32()? {
        CALL => {
            if input.u32()? != VERSION {
                return Err(Malformed);
            }
            let [program, version, procedure] = [input.u32()?, input.u32()?, input.u32()?];
            for _ in 0..2 {
                input.u32()?;
                input.opaque(MAX_AUTH)?;
            }
            Ok(Message::Call {
                xid,
                program,
                version,
                procedure,
                arguments: input,
            })
        }
        REPLY => {
            let outcome = parse_reply(&mut input)?;
            Ok(Message::Reply {
                xid,
                outcome: outcome.map(|_| input),
            })
        }
        _ => Err(Malformed),
    }
}

/// Read the head of a reply. Gives the verifier, its flavor and its body, of one with results.
fn parse_reply<'a>(
    input: &mut Decoder<'a>,
) -> Result<core::result::Result<(u32, &'a [u8]), Denied>> {
    const ACCEPTED: u32 = 0;
    const DENIED: u32 = 1;
    const RPC_MISMATCH: u32 = 0;
    match input.u32()? {
        ACCEPTED => {
            let verifier = (input.u32()?, input.opaque(MAX_AUTH)?);
            Ok(match input.u32()? {
                0 => Ok(verifier),
                status => Err(Denied::Program(status)),
            })
        }
        DENIED => Ok(Err(match input.u32()? {
            RPC_MISMATCH => Denied::Version,
            _ => Denied::Credentials(input.u32()?),
        })),
        _ => Err(Malformed),
    }
}

/// Bytes of [`ask_for_tls`], the record's mark among them.
pub const ASK_FOR_TLS_LEN: usize = MARK_LEN + 10 * 4;

/// Make the call that asks whether the server goes on with TLS: the program's NULL with AUTH_TLS (RFC 9289, section 4.1).
pub fn ask_for_tls(xid: u32, program: u32, version: u32) -> [u8; ASK_FOR_TLS_LEN] {
    let mut bytes = [0; ASK_FOR_TLS_LEN];
    let mut out = Encoder::new(&mut bytes);
    out.fixed(&mark(ASK_FOR_TLS_LEN - MARK_LEN));
    for word in [xid, CALL, VERSION, program, version, NULL] {
        out.u32(word);
    }
    for word in [AUTH_TLS, 0, AUTH_NONE, 0] {
        out.u32(word);
    }
    bytes
}

/// Read the answer to [`ask_for_tls`]: whether the server goes on with TLS, or why there is no such answer.
///
/// # Errors
/// [`Malformed`] when it is no answer to that call.
pub fn offers_tls(message: &[u8], xid: u32) -> Result<core::result::Result<bool, Denied>> {
    let mut input = Decoder::new(message);
    if [input.u32()?, input.u32()?] != [xid, REPLY] {
        return Err(Malformed);
    }
    let outcome = parse_reply(&mut input)?;
    Ok(outcome.map(|verifier| verifier == (AUTH_NONE, STARTTLS)))
}

/// Begin the answer to a call of the peer, in the name of AUTH_NONE. The record's mark is left to be filled in.
pub fn accept(out: &mut Encoder<'_>, xid: u32) {
    for word in [0, xid, REPLY, 0, AUTH_NONE, 0, 0] {
        out.u32(word);
    }
}

/// Answer a call of the peer that is not understood: `accept_stat`, 1 to 5, as in RFC 5531, section 9.
pub fn refuse(out: &mut Encoder<'_>, xid: u32, accept_stat: u32) {
    for word in [0, xid, REPLY, 0, AUTH_NONE, 0, accept_stat] {
        out.u32(word);
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    #[test]
    fn a_mark_carries_length_and_end() {
        assert_eq!(mark(260), [0x80, 0, 1, 4]);
        assert_eq!(parse_mark([0x80, 0, 1, 4]), (260, true));
        assert_eq!(parse_mark([0, 0, 0, 8]), (8, false));
    }

    #[test]
    fn a_call_is_laid_out_as_rfc_5531_says() {
        let mut buffer = [0; 128];
        let mut out = Encoder::new(&mut buffer);
        let user = Credentials::Sys {
            uid: 1000,
            gid: 100,
            group: Some(27),
        };
        call(&mut out, 7, 100_003, 4, 1, b"dpu", &user);
        let len = out.finish().unwrap();
        let words: std::vec::Vec<u32> = buffer[..len]
            .chunks(4)
            .map(|word| u32::from_be_bytes(word.try_into().unwrap()))
            .collect();
        let dpu = u32::from_be_bytes(*b"dpu\0");
        let expected = [
            0, 7, 0, 2, 100_003, 4, 1, 1, 28, 0, 3, dpu, 1000, 100, 1, 27, 0, 0,
        ];
        assert_eq!(words, expected);
        let Ok(Message::Call { xid, program, .. }) = parse(&buffer[4..len]) else {
            panic!("not a call");
        };
        assert_eq!((xid, program), (7, 100_003));
    }

    #[test]
    fn replies_say_what_became_of_the_call() {
        let bytes = |words: &[u32]| -> std::vec::Vec<u8> {
            words.iter().flat_map(|word| word.to_be_bytes()).collect()
        };
        let outcome = |words: &[u32]| match parse(&bytes(words)) {
            Ok(Message::Reply { xid: 9, outcome }) => Some(outcome.map(|rest| rest.rest().len())),
            Ok(_) => panic!("not the reply"),
            Err(Malformed) => None,
        };
        assert_eq!(outcome(&[9, 1, 0, 0, 0, 0, 42]), Some(Ok(4)));
        assert_eq!(
            outcome(&[9, 1, 0, 0, 0, 2, 4, 4]),
            Some(Err(Denied::Program(2)))
        );
        assert_eq!(outcome(&[9, 1, 1, 1, 5]), Some(Err(Denied::Credentials(5))));
        assert_eq!(outcome(&[9, 1, 1, 0, 2, 2]), Some(Err(Denied::Version)));
        assert_eq!(outcome(&[9, 1, 2]), None);
        assert_eq!(outcome(&[9, 1, 0, 0, 401]), None);
        assert_eq!(outcome(&[9, 3]), None);
    }

    #[test]
    fn tls_is_asked_for_and_offered_as_rfc_9289_says() {
        let expected = [0x8000_0028, 5, 0, 2, 100_003, 4, 0, 7, 0, 0, 0];
        let expected: std::vec::Vec<u8> = expected.into_iter().flat_map(u32::to_be_bytes).collect();
        assert_eq!(ask_for_tls(5, 100_003, 4), *expected);
        let [start, tls] = [b"STAR", b"TTLS"].map(|half| u32::from_be_bytes(*half));
        let outcome = |words: &[u32]| {
            let bytes: std::vec::Vec<u8> =
                words.iter().flat_map(|word| word.to_be_bytes()).collect();
            offers_tls(&bytes, 5)
        };
        for (words, expected) in [
            (&[5, 1, 0, 0, 8, start, tls, 0][..], Ok(Ok(true))),
            (&[5, 1, 0, 0, 0, 0], Ok(Ok(false))),
            (&[5, 1, 0, 0, 4, start, 0], Ok(Ok(false))),
            (&[5, 1, 0, 7, 8, start, tls, 0], Ok(Ok(false))),
            // What is not done is not offered.
            (&[5, 1, 0, 0, 8, start, tls, 1], Ok(Err(Denied::Program(1)))),
            (&[5, 1, 1, 1, 2], Ok(Err(Denied::Credentials(2)))),
            (&[5, 1, 1, 0, 2, 2], Ok(Err(Denied::Version))),
            (&[6, 1, 0, 0, 8, start, tls, 0], Err(Malformed)),
            (&[5, 0, 0, 0, 8, start, tls, 0], Err(Malformed)),
            (&[5, 1, 0, 0, 8, start], Err(Malformed)),
        ] {
            assert_eq!(outcome(words), expected, "{words:?}");
        }
    }
}
