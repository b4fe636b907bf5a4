//! What groups are asked: whose bytes are the host's from some byte on, and whose content comes in several strings.

use super::super::super::super::chunk::zero;
use super::super::super::super::engine::Token;
use super::super::super::super::objects::{Client, Done, Failure, Op};
use super::super::super::pipeline::whole;
use super::super::super::request::Durability;
use super::super::group::{self, Group, Task};
use super::{Answer, Call, Job, Part};
use crate::mem::fill;
use crate::wire::resp::{Item, Malformed, Reader};

impl Call {
    /// Make one that asks a group of the volume with this prefix.
    pub fn group(token: Token, group: Group, task: Task, base: u32, prefix: &[u8]) -> Self {
        let mut call = Self::new(token, &Op::Usage);
        call.job = Job::Group { group, task, base };
        let name = &mut call.name[0];
        call.lens[0] = match task {
            Task::Settle => group::name_of_settle(group.number, prefix, name),
            _ => group::name(group, prefix, name),
        };
        call
    }

    /// First of the host's bytes that are meant.
    pub const fn base(&self) -> usize {
        match self.job {
            Job::Group { base, .. } => base as usize,
            _ => 0,
        }
    }

    /// Say where the bytes belong that come next, among the host's, and how many they are: of content that is worth it.
    pub fn wants(&self) -> Option<(usize, usize)> {
        match self.job {
            Job::Group {
                task: Task::Read { .. },
                ..
            } => {
                let reading = &self.reading;
                let left = if reading.stage == 1 { reading.left } else { 0 };
                Some((self.base() + reading.at, left as usize))
            }
            _ => None,
        }
    }

    /// Note that so many of them are there.
    pub fn placed(&mut self, bytes: usize) {
        self.reading.at += bytes;
        self.reading.left -= bytes as u64;
    }

    /// Take content of chunks as it comes: a string for each. What is not there is zeros.
    pub(super) fn take_parts(
        &mut self,
        bytes: &[u8],
        (offset, len): (u64, u32),
        chunk: u32,
        client: &mut dyn Client,
    ) -> Result<(usize, Option<Answer>), Malformed> {
        let (base, mut taken) = (self.base(), 0);
        loop {
            let reading = &mut self.reading;
            let rest = &bytes[taken..];
            if reading.stage == 1 {
                let count = rest.len().min(reading.left as usize);
                let _ = fill(
                    client.buffers(self.token),
                    base + reading.at,
                    &rest[..count],
                );
                reading.at += count;
                reading.left -= count as u64;
                taken += count;
                if reading.left > 0 || Reader::new(&bytes[taken..]).body(0)?.is_none() {
                    return Ok((taken, None));
                }
                taken += 2;
                let end = reading.at + reading.rest;
                zero(client.buffers(self.token), base + reading.at..base + end);
                (reading.at, reading.stage) = (end, 0);
                continue;
            }
            if reading.at >= len as usize {
                let answer = match reading.refused {
                    None => Answer::End(Ok(Done::Read(len))),
                    Some(Part::Later) => Answer::Later,
                    Some(Part::Moved) => Answer::Moved,
                    Some(Part::Failed) => Answer::End(Err(Failure::Broken)),
                };
                return Ok((taken, Some(answer)));
            }
            let mut reader = Reader::new(rest);
            let Some(item) = reader.item()? else {
                return Ok((taken, None));
            };
            let inside = (offset + reading.at as u64) % u64::from(chunk);
            let piece = (u64::from(chunk) - inside).min(u64::from(len) - reading.at as u64);
            taken += rest.len() - reader.rest().len();
            match item {
                Item::Bulk(length) if length <= piece => {
                    (reading.left, reading.stage) = (length, 1);
                    reading.rest = (piece - length) as usize;
                }
                Item::Error(text) => {
                    reading.at += piece as usize;
                    self.reading.refused = Some(match self.refused(text) {
                        Answer::Moved => Part::Moved,
                        Answer::Later => Part::Later,
                        _ => Part::Failed,
                    });
                }
                _ => return Err(Malformed),
            }
        }
    }

    /// Take the answers to a change and to the wait behind it.
    pub(super) fn take_settled(
        &mut self,
        bytes: &[u8],
        durability: Option<Durability>,
    ) -> Result<(usize, Option<Answer>), Malformed> {
        let Some(first) = whole(bytes)? else {
            return Ok((0, None));
        };
        let Some(second) = whole(&bytes[first..])? else {
            return Ok((0, None));
        };
        let answer = match Reader::new(&bytes[..first]).item()? {
            Some(Item::Integer(_)) => self.understand(&bytes[first..first + second], durability)?,
            Some(Item::Error(text)) => self.refused(text),
            _ => return Err(Malformed),
        };
        Ok((first + second, Some(answer)))
    }
}
