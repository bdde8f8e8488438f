//! Whether some order of operations explains what came of them (Herlihy and Wing, 1990), crash included.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::BLOCKS;
use crate::error::Posix;
use crate::types::InodeNo;

/// What a thread does; names and files by number.
#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    Write { file: usize, block: usize, blocks: usize, fill: u8 },
    Read { file: usize, block: usize },
    Make(usize),
    Rename(usize, usize),
    Unlink(usize),
    Look(usize),
    Sync,
    Work,
}

/// What it is answered.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Answer {
    Done,
    Byte(u8),
    /// A block that no single write made.
    Torn,
    Ino(InodeNo),
    Refused(Posix),
}

/// An operation that was answered, with the moments when it was called and when it had returned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    pub(super) thread: usize,
    pub(super) action: Action,
    pub(super) answer: Answer,
    pub(super) began: u64,
    pub(super) ended: u64,
}

/// What there is.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct State {
    pub(super) files: [InodeNo; 2],
    pub(super) names: BTreeMap<usize, InodeNo>,
    pub(super) blocks: [[u8; BLOCKS]; 2],
}

impl State {
    /// Does it; whether the answer is right.
    fn apply(&mut self, event: &Event) -> bool {
        let found = |name| self.names.get(&name).copied();
        let right = match event.action {
            Action::Write { file, block, blocks, fill } => {
                self.blocks[file][block..block + blocks].fill(fill);
                Answer::Done
            }
            Action::Read { file, block } => Answer::Byte(self.blocks[file][block]),
            Action::Make(name) => match (found(name), event.answer) {
                (Some(_), _) => Answer::Refused(Posix::Exists),
                (None, Answer::Ino(ino)) => {
                    self.names.insert(name, ino);
                    event.answer
                }
                (None, _) => return false,
            },
            Action::Rename(from, to) => match found(from) {
                None => Answer::Refused(Posix::NotFound),
                Some(ino) if found(to) == Some(ino) => Answer::Done,
                Some(ino) => {
                    self.names.remove(&from);
                    self.names.insert(to, ino);
                    Answer::Done
                }
            },
            Action::Unlink(name) => match self.names.remove(&name) {
                None => Answer::Refused(Posix::NotFound),
                Some(_) => Answer::Done,
            },
            Action::Look(name) => found(name).map_or(Answer::Refused(Posix::NotFound), Answer::Ino),
            Action::Sync | Action::Work => Answer::Done,
        };
        right == event.answer
    }
}

/// Whether an order leads from `start` over all answers to `end`, and passes what the crash left at a moment when all
/// that it had to keep is in.
pub(super) fn explains(start: &State, events: &[Event], end: &State, crash: Option<&(State, u64)>) -> bool {
    // What had been answered before a sync was called that had been answered before the crash.
    let synced = crash.and_then(|(_, at)| {
        let syncs = events.iter().filter(|event| matches!(event.action, Action::Sync) && event.ended < *at);
        syncs.map(|sync| sync.began).max()
    });
    let kept: Vec<bool> = events.iter().map(|event| synced.is_some_and(|began| event.ended < began)).collect();
    let crashed = crash.map(|(state, _)| state);
    let search = Search { events, end, crashed, kept };
    search.goes_on(start, &mut alloc::vec![false; events.len()], crashed.is_none())
}

struct Search<'a> {
    events: &'a [Event],
    end: &'a State,
    crashed: Option<&'a State>,
    kept: Vec<bool>,
}

impl Search<'_> {
    fn goes_on(&self, state: &State, placed: &mut Vec<bool>, passed: bool) -> bool {
        let all_kept = self.kept.iter().zip(placed.iter()).all(|(kept, placed)| !kept || *placed);
        let passed = passed || (all_kept && self.crashed == Some(state));
        if placed.iter().all(|placed| *placed) {
            return passed && state == self.end;
        }
        for (index, event) in self.events.iter().enumerate() {
            let comes_first =
                |(other, placed): (&Event, &bool)| !placed && (other.ended < event.began || is_before(other, event));
            if placed[index] || self.events.iter().zip(placed.iter()).any(comes_first) {
                continue;
            }
            let mut next = state.clone();
            if next.apply(event) {
                placed[index] = true;
                if self.goes_on(&next, placed, passed) {
                    return true;
                }
                placed[index] = false;
            }
        }
        false
    }
}

fn is_before(one: &Event, other: &Event) -> bool {
    one.thread == other.thread && one.began < other.began
}
