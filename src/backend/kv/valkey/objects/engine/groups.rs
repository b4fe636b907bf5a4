//! What the tree asks of nodes where its content spreads.

use super::super::super::super::engine::{Busy, NAME_MAX, Token};
use super::super::super::super::objects::{Cursor, Op};
use super::super::ask::Call;
use super::super::group::{self, Group, Task};
use super::{NODES, OWN, Strings};
use crate::wire::resp::{SLOTS, slot};

impl Strings {
    /// Tell whether changes that were answered may be lost.
    pub(in super::super::super) const fn doubts(&self) -> bool {
        self.doubt
    }

    /// Say who asks groups: a random number that nobody else has.
    pub(in super::super::super) const fn introduce(&mut self, client: u64) {
        self.who.client = client;
    }

    /// Ask a group of a volume, for bytes of the host's from `base` on.
    ///
    /// # Errors
    /// [`Busy`] when there is no room.
    pub(in super::super::super) fn ask_group(
        &mut self,
        token: Token,
        group: Group,
        task: Task,
        base: u32,
    ) -> Result<(), Busy> {
        let prefix = self.settings.prefix;
        self.admit(|| Call::group(token, group, task, base, prefix))
    }

    /// Ask for a part of all names.
    ///
    /// # Errors
    /// [`Busy`] when there is no room.
    pub(in super::super::super) fn list(
        &mut self,
        token: Token,
        cursor: &Cursor,
    ) -> Result<(), Busy> {
        self.admit(|| Call::new(token, &Op::List { cursor }))
    }

    /// Ask each node that has slots to wait until what was changed there is durable. Gives how many are asked.
    ///
    /// # Errors
    /// [`Busy`] when there is no room, or nobody knows who has slots.
    pub(in super::super::super) fn settle(&mut self, token: Token) -> Result<u32, Busy> {
        let room = self.calls.capacity() - self.calls.len();
        if !self.known || room < NODES + OWN {
            return Err(Busy);
        }
        let mut asked = 0;
        for which in 0..NODES {
            if !self.slots.names(which) {
                continue;
            }
            let its = |number: &u32| {
                let mut place = [0; NAME_MAX];
                let len = group::name_of_settle(*number, self.settings.prefix, &mut place);
                self.slots.node(slot(&place[..len.into()])) == Some(which)
            };
            // One that has few slots may be missed by a few numbers, but not by so many.
            let Some(number) = (0..u32::from(SLOTS) * 16).find(its) else {
                continue;
            };
            let group = Group { ino: 0, number };
            self.enter(Call::group(
                token,
                group,
                Task::Settle,
                0,
                self.settings.prefix,
            ))?;
            asked += 1;
        }
        Ok(asked)
    }
}
