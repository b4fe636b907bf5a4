//! What the server is to do wrong, and what it did.

use std::sync::Arc;
use std::time::Duration;

use dpfs::wire::nfs4::{Bitmap, Status};

use super::mutate::Random;

/// Change the answer to a call, its record's mark not among it.
pub type Change = Arc<dyn Fn(&mut Vec<u8>) + Send + Sync>;

/// Say what happens at an operation.
#[derive(Clone)]
pub enum Act {
    /// It is refused, and nothing done.
    Status(Status),
    /// Nothing of the call is done, and the connection ends.
    CutBefore,
    /// The call is done, and the connection ends after so many bytes of the answer.
    CutAfter(usize),
    /// The call is done, and the server falls silent after so many bytes of the answer.
    Stall(usize),
    /// The call is done, and nothing said.
    Silent,
    /// Nothing of the call is done; this is the answer behind its transaction number.
    Reply(Vec<u32>),
    /// READ gives and WRITE takes at most so many bytes.
    Short(u32),
    /// The call is done, and its answer changed. What is kept for a repetition is not.
    Change(Change),
    /// The call is done, and the answer comes so much later.
    Late(Duration),
}

impl Act {
    /// Change the answer.
    pub fn change(change: impl Fn(&mut Vec<u8>) + Send + Sync + 'static) -> Self {
        Self::Change(Arc::new(change))
    }
}

struct Rule {
    operation: u32,
    skip: u32,
    times: u32,
    act: Act,
}

/// Hold the script, and the log.
pub struct Script {
    rules: Vec<Rule>,
    /// Operations and what became of them, in order.
    pub done: Vec<(u32, Status)>,
    /// `SEQ4_STATUS_*` of every SEQUENCE.
    pub flags: u32,
    /// Those that nothing takes back.
    pub stuck: u32,
    /// Highest slot that SEQUENCE tells of, and the one that it would like.
    pub slots: Option<(u32, u32)>,
    /// Attributes that are given; others are not.
    pub attributes: Bitmap,
    /// Connections end as soon as they begin.
    pub closed: bool,
    /// OPEN is for what was open before only.
    pub grace: bool,
    /// Newest minor version.
    pub minor: u32,
    /// So many long calls are cut while they are being sent.
    pub halves: u32,
    /// Bytes of a fragment of an answer's record.
    pub fragment: usize,
    /// Bytes that are sent at a time.
    pub segment: usize,
    /// Time between them.
    pub pause: Duration,
    /// One answer in so many is changed as a whole, by this stream of numbers.
    pub mutates: Option<(usize, Random)>,
    /// Repetitions that were not what they repeat, and numbers out of order: a client that does this is wrong.
    pub misused: u32,
    /// Calls that came.
    pub calls: u64,
    /// Repetitions that were answered from memory.
    pub repeated: u32,
    /// Answers that were changed as a whole.
    pub mutated: u32,
    /// Highest slot that a call came in.
    pub highest_used: u32,
}

impl Script {
    /// Begin with nothing wrong.
    pub const fn new() -> Self {
        Self {
            rules: Vec::new(),
            done: Vec::new(),
            flags: 0,
            stuck: 0,
            slots: None,
            attributes: Bitmap([u32::MAX; 3]),
            closed: false,
            grace: false,
            minor: 2,
            halves: 0,
            fragment: usize::MAX,
            segment: usize::MAX,
            pause: Duration::ZERO,
            mutates: None,
            misused: 0,
            calls: 0,
            repeated: 0,
            mutated: 0,
            highest_used: 0,
        }
    }

    /// At the `skip`th next operation of this kind, counted from zero, and at those behind it, `times` in all.
    pub fn at(&mut self, operation: u32, skip: u32, times: u32, act: Act) {
        self.rules.push(Rule {
            operation,
            skip,
            times,
            act,
        });
    }

    /// Forget what is not done yet.
    pub fn clear(&mut self) {
        self.rules.clear();
    }

    /// Tell whether all of the script was played.
    pub fn is_over(&self) -> bool {
        self.rules.is_empty()
    }

    /// Give what is to happen at an operation.
    pub fn next(&mut self, operation: u32) -> Option<Act> {
        let place = self
            .rules
            .iter()
            .position(|rule| rule.operation == operation)?;
        let rule = &mut self.rules[place];
        if rule.skip > 0 {
            rule.skip -= 1;
            return None;
        }
        rule.times -= 1;
        let act = rule.act.clone();
        if rule.times == 0 {
            self.rules.remove(place);
        }
        Some(act)
    }

    /// Count the operations of a kind that were done.
    pub fn count(&self, operation: u32) -> usize {
        let well = |(number, status): &&(u32, Status)| *number == operation && status.is_ok();
        self.done.iter().filter(well).count()
    }
}
