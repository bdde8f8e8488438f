//! What a run did and when, so that any crash of it can be judged.

use std::ops::RangeInclusive;

use sefs::error::Result;

use crate::campaign::explore::Oracle;
use crate::op::Op;
use crate::recorder::{Recorder, Recording};
use crate::stage::Stage;
use crate::tree::Tree;

/// A run of operations: state k is what there is after k of them.
pub struct History {
    /// Everything written.
    pub recording: Recording,
    /// All states, from the empty one on.
    pub states: Vec<Tree>,
    /// For each operation: events before it began and when it had returned, and whether it acknowledged durability.
    pub spans: Vec<Span>,
}

/// When an operation ran, in events of the recording.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Events before it began.
    pub begin: usize,
    /// Events when it had returned.
    pub end: usize,
    /// Whether everything before it is durable from then on.
    pub durable: bool,
}

impl History {
    /// Runs operations until one fails for other reasons than its own; returns that error too.
    pub fn of(stage: &mut Stage, disk: &Recorder, ops: &[Op]) -> (History, Result<()>) {
        let mut history = History { recording: disk.recording(), states: vec![stage.model.tree()], spans: Vec::new() };
        let mut outcome = Ok(());
        for op in ops {
            let begin = disk.position();
            outcome = stage.run(op);
            let durable = outcome.is_ok() && matches!(op, Op::Sync | Op::Remount | Op::Crash);
            history.spans.push(Span { begin, end: disk.position(), durable });
            history.states.push(stage.model.tree());
            if outcome.is_err() {
                break;
            }
        }
        history.recording = disk.recording();
        (history, outcome)
    }

    /// The numbers of the states that were acknowledged as durable, rising.
    pub fn acknowledged(&self) -> Vec<usize> {
        self.spans.iter().enumerate().filter(|(_, span)| span.durable).map(|(op, _)| op + 1).collect()
    }

    /// The states that a crash after `count` events may leave: from the last one that was acknowledged as durable to
    /// the one that the operation under way would have made.
    pub fn allowed(&self, count: usize) -> RangeInclusive<usize> {
        let acknowledged = self.spans.iter().rposition(|span| span.durable && span.end <= count);
        let begun = self.spans.iter().rposition(|span| span.begin < count);
        let first = acknowledged.map_or(0, |op| op + 1);
        first..=begun.map_or(0, |op| op + 1).max(first)
    }

    /// Which allowed state this is; otherwise what is wrong with it.
    pub fn judge(&self, count: usize, found: &Tree) -> core::result::Result<usize, String> {
        let allowed = self.allowed(count);
        if let Some(state) = allowed.clone().rev().find(|state| self.states[*state] == *found) {
            return Ok(state);
        }
        let elsewhere = self.states.iter().rposition(|state| state == found);
        let closest = allowed.clone().min_by_key(|state| self.states[*state].difference(found).len()).unwrap_or(0);
        let difference = self.states[closest].difference(found);
        Err(match elsewhere {
            Some(state) => format!("it is state {state}, allowed are {allowed:?}"),
            None => format!("it is no state at all; allowed are {allowed:?}; from state {closest}:\n{difference}"),
        })
    }
}

impl Oracle for History {
    fn recording(&self) -> &Recording {
        &self.recording
    }

    fn key(&self, count: usize) -> u64 {
        let allowed = self.allowed(count);
        ((*allowed.start() as u64) << 32) | *allowed.end() as u64
    }

    fn allows(&self, count: usize, found: &Tree) -> core::result::Result<(), String> {
        self.judge(count, found).map(drop)
    }
}
