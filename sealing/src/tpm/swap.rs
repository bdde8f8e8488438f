//! Compare-and-swap out of a counter and a cell: an NV write compares nothing.
//!
//! ```text
//! cell: 0 number u64 │ 8 content 40 │ 48 end          (little-endian)
//! ```
//! Whoever replaces the content first counts the counter up and looks at what that gave. If it is the value before and one
//! more, that number is his and nobody else's; he writes the content with it, and looks again. What counts is content whose
//! number is the counter's or, when somebody died between counting and writing, one less.
//!
//! *Invariants*
//! - A number is written by the one whose own increment gave it, and once.
//! - After a death between counting and writing (content at n, counter at n + 1) the next one counts by two and writes n + 3,
//!   so that the dead one, should he be alive, writes n + 1 and is two behind, which never counts.
//! - Of two that count at once at most one finds the value that he expects.
//! - Content that was confirmed (written at n, and the counter read as n after) is replaced by the owner of a later number
//!   only, who had read it.
//!
//! The price: two deaths in a row between a count and a write leave a gap that is refused. Safety was chosen over
//! availability, as with every anchor.

use super::error::TpmError;
use crate::bytes::{Fields, array};

/// Bytes of content.
pub(super) const CONTENT_LEN: usize = 40;
/// Bytes of the cell.
pub(super) const RECORD_LEN: usize = 48;

/// Content with the number of whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) number: u64,
    pub(super) content: [u8; CONTENT_LEN],
}

/// A counter and a cell.
pub(super) trait Cells {
    fn count(&mut self) -> Result<u64, TpmError>;
    fn count_up(&mut self) -> Result<(), TpmError>;
    fn record(&mut self) -> Result<Record, TpmError>;
    fn write(&mut self, record: &Record) -> Result<(), TpmError>;
}

/// Replaces the content, if it is `from`.
pub(super) fn replace(cells: &mut dyn Cells, from: &[u8; CONTENT_LEN], to: &[u8; CONTENT_LEN]) -> Result<(), TpmError> {
    let (count, held) = settled(cells)?;
    if held.content != *from {
        return Err(TpmError::Conflict);
    }
    let steps = if held.number == count { 1 } else { AFTER_DEATH };
    for step in 0..steps {
        own(cells, count.saturating_add(step))?;
    }
    if cells.record()? != held {
        return Err(TpmError::Conflict);
    }
    let number = count.saturating_add(steps);
    let record = Record { number, content: *to };
    cells.write(&record)?;
    if cells.record()? == record && cells.count()? == number { Ok(()) } else { Err(TpmError::Conflict) }
}

/// Counts, and demands that the next number is ours: that the counter was at `from`, and is one more.
pub(super) fn own(cells: &mut dyn Cells, from: u64) -> Result<(), TpmError> {
    let next = from.checked_add(1).ok_or(TpmError::Torn)?;
    // A stranger's count is looked for first: each of them brings the register closer to being refused.
    if cells.count()? != from {
        return Err(TpmError::Conflict);
    }
    cells.count_up()?;
    if cells.count()? == next { Ok(()) } else { Err(TpmError::Conflict) }
}

/// Counter and content at one time: the counter is the same before and after.
pub(super) fn settled(cells: &mut dyn Cells) -> Result<(u64, Record), TpmError> {
    let before = cells.count()?;
    let record = cells.record()?;
    if cells.count()? != before {
        return Err(TpmError::Conflict);
    }
    let behind = before.checked_sub(record.number);
    if behind.is_some_and(|behind| behind <= 1) { Ok((before, record)) } else { Err(TpmError::Torn) }
}

impl Record {
    pub(super) fn encode(&self) -> [u8; RECORD_LEN] {
        let mut out = [0; RECORD_LEN];
        out[..8].copy_from_slice(&self.number.to_le_bytes());
        out[8..].copy_from_slice(&self.content);
        out
    }

    pub(super) fn decode(bytes: &[u8; RECORD_LEN]) -> Record {
        Record { number: Fields(bytes).u64(0), content: array(&bytes[8..]) }
    }
}

/// How far the counter goes when the one before died.
const AFTER_DEATH: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    /// What the cells hold, what was confirmed last, and who wanted to replace what by what.
    struct Held {
        count: u64,
        record: Record,
        confirmed: [u8; CONTENT_LEN],
        attempts: Vec<([u8; CONTENT_LEN], [u8; CONTENT_LEN])>,
    }

    /// One process at the cells. Before its step `pause` everything in `meanwhile` happens; from its step `death` on it is dead.
    struct Process<'a> {
        held: &'a Rc<RefCell<Held>>,
        step: usize,
        pause: usize,
        meanwhile: &'a dyn Fn(),
        death: usize,
    }

    impl Process<'_> {
        fn step(&mut self) -> Result<(), TpmError> {
            if self.step == self.pause {
                (self.meanwhile)();
            }
            self.step += 1;
            if self.step > self.death { Err(TpmError::Unreachable("dead".into())) } else { Ok(()) }
        }
    }

    impl Cells for Process<'_> {
        fn count(&mut self) -> Result<u64, TpmError> {
            self.step()?;
            Ok(self.held.borrow().count)
        }

        fn count_up(&mut self) -> Result<(), TpmError> {
            self.step()?;
            self.held.borrow_mut().count += 1;
            Ok(())
        }

        fn record(&mut self) -> Result<Record, TpmError> {
            self.step()?;
            Ok(self.held.borrow().record.clone())
        }

        fn write(&mut self, record: &Record) -> Result<(), TpmError> {
            self.step()?;
            self.held.borrow_mut().record = record.clone();
            Ok(())
        }
    }

    const NEVER: usize = 99;
    /// More steps than any replacement takes.
    const STEPS: usize = 16;

    fn content(name: u8) -> [u8; CONTENT_LEN] {
        [name; CONTENT_LEN]
    }

    /// A process reads what is there and replaces it by its own.
    fn run(held: &Rc<RefCell<Held>>, name: u8, pause: usize, meanwhile: &dyn Fn(), death: usize) {
        let mut process = Process { held, step: 0, pause, meanwhile, death };
        let Ok((_, found)) = settled(&mut process) else { return };
        held.borrow_mut().attempts.push((found.content, content(name)));
        if replace(&mut process, &found.content, &content(name)).is_ok() {
            let mut held = held.borrow_mut();
            held.confirmed = content(name);
            assert_eq!(
                (held.record.content, held.record.number),
                (content(name), held.count),
                "confirmed, and not there"
            );
        }
    }

    fn fresh() -> Rc<RefCell<Held>> {
        let start = content(0);
        let record = Record { number: 7, content: start };
        Rc::new(RefCell::new(Held { count: 7, record, confirmed: start, attempts: Vec::new() }))
    }

    /// What is readable is what was confirmed last, or came of that: somebody who had read it wrote, and could not confirm.
    fn check(held: &Rc<RefCell<Held>>, story: &str) -> bool {
        let mut reader = Process { held, step: 0, pause: NEVER, meanwhile: &|| (), death: NEVER };
        let Ok((_, found)) = settled(&mut reader) else { return false };
        let held = held.borrow();
        let mut came_of_it = vec![held.confirmed];
        let mut next = 0;
        while let Some(&from) = came_of_it.get(next) {
            let later = held.attempts.iter().filter(|(read, to)| *read == from && !came_of_it.contains(to));
            let later: Vec<_> = later.map(|(_, to)| *to).collect();
            came_of_it.extend(later);
            next += 1;
        }
        assert!(came_of_it.contains(&found.content), "{story}: {} undid {}", found.content[0], held.confirmed[0]);
        true
    }

    /// One is held up at each of its steps, while a second and a third come, each of which may die at each of theirs.
    #[test]
    fn nothing_confirmed_is_undone_whoever_is_held_up_or_dies() {
        let mut readable = 0;
        for pause in 0..STEPS {
            for second in (0..STEPS).chain([NEVER]) {
                for third in (0..STEPS).chain([NEVER]) {
                    let held = fresh();
                    let others = || {
                        run(&held, 2, NEVER, &|| (), second);
                        run(&held, 3, NEVER, &|| (), third);
                        run(&held, 4, NEVER, &|| (), NEVER);
                    };
                    run(&held, 1, pause, &others, NEVER);
                    readable += usize::from(check(&held, &format!("paused at {pause}, deaths at {second}, {third}")));
                    run(&held, 5, NEVER, &|| (), NEVER);
                    check(&held, &format!("and later: paused at {pause}, deaths at {second}, {third}"));
                }
            }
        }
        assert!(readable > 1000, "only {readable} stories left something to read");
    }

    /// The same with two that are held up, one inside the other.
    #[test]
    fn nothing_confirmed_is_undone_when_two_are_held_up() {
        for outer in 0..STEPS {
            for inner in 0..STEPS {
                for death in (0..STEPS).chain([NEVER]) {
                    let held = fresh();
                    let deepest = || {
                        run(&held, 3, NEVER, &|| (), death);
                        run(&held, 4, NEVER, &|| (), NEVER);
                    };
                    run(&held, 1, outer, &|| run(&held, 2, inner, &deepest, NEVER), NEVER);
                    check(&held, &format!("held up at {outer} and {inner}, death at {death}"));
                }
            }
        }
    }

    #[test]
    fn one_death_anywhere_leaves_it_usable() {
        for death in 0..STEPS {
            let held = fresh();
            run(&held, 1, NEVER, &|| (), death);
            run(&held, 2, NEVER, &|| (), NEVER);
            assert_eq!(held.borrow().confirmed, content(2), "died at {death}");
        }
    }

    /// The bare counter has no record whose comparison would catch it.
    #[test]
    fn a_count_that_a_stranger_shared_is_nobodys() {
        for pause in 0..3 {
            let held = fresh();
            let stranger = || held.borrow_mut().count += 1;
            let mut process = Process { held: &held, step: 0, pause, meanwhile: &stranger, death: NEVER };
            assert_eq!(own(&mut process, 7), Err(TpmError::Conflict), "he came at {pause}");
        }
        let held = fresh();
        let mut process = Process { held: &held, step: 0, pause: NEVER, meanwhile: &|| (), death: NEVER };
        assert_eq!(own(&mut process, 7), Ok(()));
    }

    #[test]
    fn another_content_is_left_alone() {
        let held = fresh();
        let mut process = Process { held: &held, step: 0, pause: NEVER, meanwhile: &|| (), death: NEVER };
        assert_eq!(replace(&mut process, &content(9), &content(1)), Err(TpmError::Conflict));
        assert_eq!(held.borrow().count, 7);
    }
}
