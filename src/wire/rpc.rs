//! ONC RPC over a stream: records, calls with AUTH_SYS or AUTH_NONE, replies. Source: RFC 5531.

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
                outcome: outcome.map(|()| input),
            })
        }
        _ => Err(Malformed),
    }
}

fn parse_reply(input: &mut Decoder<'_>) -> Result<core::result::Result<(), Denied>> {
    const ACCEPTED: u32 = 0;
    const DENIED: u32 = 1;
    const RPC_MISMATCH: u32 = 0;
    match input.u32()? {
        ACCEPTED => {
            input.u32()?;
            input.opaque(MAX_AUTH)?;
            Ok(match input.u32()? {
                0 => Ok(()),
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
}
