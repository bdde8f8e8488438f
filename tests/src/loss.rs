//! What a crash loses, as a value that can be printed, repeated and made smaller.
//!
//! Durable is what the last flush that returned had covered. Of the later writes any subset may have reached the disk, in any
//! order, each whole or torn at 512 bytes. A discard may have taken effect or not, even a durable one.

use std::fmt;

use crate::disk::{Disk, SECTOR};
use crate::recorder::{Event, Recording, apply};
use crate::seed::Dice;

/// How much of a write reached the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// The first so many sectors.
    Prefix(usize),
    /// Each sector or not, by the dice of this seed.
    Scattered(u64),
}

/// An event that reached the disk without having been flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its number in the recording.
    pub event: usize,
    /// How much of it.
    pub part: Part,
}

/// One crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Events before the crash.
    pub count: usize,
    /// Those of the unflushed ones that reached the disk, in the order in which they did.
    pub kept: Vec<Kept>,
    /// Durable discards are carried out or not by the dice of this seed; all are without one.
    pub discards: Option<u64>,
}

impl Loss {
    /// Nothing is lost.
    pub fn nothing(recording: &Recording, count: usize) -> Loss {
        Loss { count, kept: whole(pending(recording, count)), discards: None }
    }

    /// A random subset in a random order, some of it torn.
    pub fn random(recording: &Recording, count: usize, dice: &mut Dice) -> Loss {
        let mut events = pending(recording, count);
        shuffle(&mut events, dice);
        // Three kinds of loss: nothing, about half, nearly all; so that long windows are cut in different places too.
        let keep_of_8 = *dice.pick(&[1, 4, 7]);
        events.retain(|_| dice.below(8) < keep_of_8);
        let kept = events.into_iter().map(|event| Kept { event, part: part(&recording.events[event], dice) }).collect();
        Loss { count, kept, discards: Some(dice.next()) }
    }

    /// For each unflushed write: all but it, it alone, and it torn while all others are whole. The last `window` writes
    /// only, for with each further event the window moves on.
    pub fn each(recording: &Recording, count: usize, window: usize, dice: &mut Dice) -> Vec<Loss> {
        let events = pending(recording, count);
        let loss = |kept: Vec<Kept>| Loss { count, kept, discards: None };
        let mut losses = vec![loss(Vec::new())];
        for event in events.iter().rev().take(window) {
            let others: Vec<usize> = events.iter().copied().filter(|other| other != event).collect();
            let Event::Write { data, .. } = &recording.events[*event] else { continue };
            let sectors = data.len() / SECTOR;
            losses.push(loss(whole(others.clone())));
            losses.push(loss(whole(vec![*event])));
            for part in [Part::Prefix(1), Part::Prefix(1 + dice.index(sectors)), Part::Scattered(dice.next())] {
                let mut kept = whole(others.clone());
                kept.push(Kept { event: *event, part });
                losses.push(loss(kept));
            }
        }
        losses
    }

    /// The disk that is left.
    pub fn disk(&self, recording: &Recording) -> Disk {
        let mut disk = recording.base.clone();
        let mut discards = self.discards.map(Dice::new);
        for event in &recording.events[..recording.durable(self.count)] {
            let undone = matches!(event, Event::Discard { .. }) && discards.as_mut().is_some_and(|dice| dice.one_in(2));
            if !undone {
                apply(&mut disk, event);
            }
        }
        self.after(disk, recording)
    }

    /// The disk that is left, from one that holds what is durable.
    pub fn after(&self, mut durable: Disk, recording: &Recording) -> Disk {
        self.kept.iter().for_each(|kept| kept.apply(&mut durable, &recording.events[kept.event]));
        durable
    }
}

impl Kept {
    fn apply(self, disk: &mut Disk, event: &Event) {
        let Event::Write { offset_bytes, data } = event else {
            return apply(disk, event);
        };
        match self.part {
            Part::Whole => disk.write(*offset_bytes, data),
            Part::Prefix(sectors) => disk.write(*offset_bytes, &data[..(sectors * SECTOR).min(data.len())]),
            Part::Scattered(seed) => {
                let mut dice = Dice::new(seed);
                for (index, sector) in data.chunks(SECTOR).enumerate() {
                    if dice.one_in(2) {
                        disk.write(offset_bytes + (index * SECTOR) as u64, sector);
                    }
                }
            }
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "crash after event {}, of the unflushed ones remain [", self.count)?;
        for (index, kept) in self.kept.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            match kept.part {
                Part::Whole => write!(f, "{comma}{}", kept.event)?,
                part => write!(f, "{comma}{} {part:?}", kept.event)?,
            }
        }
        f.write_str("]")
    }
}

fn pending(recording: &Recording, count: usize) -> Vec<usize> {
    let durable = recording.durable(count);
    let happens = |event: &usize| !matches!(recording.events[*event], Event::Flush { .. });
    (durable..count).filter(happens).collect()
}

fn whole(events: Vec<usize>) -> Vec<Kept> {
    events.into_iter().map(|event| Kept { event, part: Part::Whole }).collect()
}

fn part(event: &Event, dice: &mut Dice) -> Part {
    let Event::Write { data, .. } = event else { return Part::Whole };
    match dice.below(4) {
        0 => Part::Prefix(dice.index(data.len() / SECTOR + 1)),
        1 => Part::Scattered(dice.next()),
        _ => Part::Whole,
    }
}

fn shuffle<T>(items: &mut [T], dice: &mut Dice) {
    for last in (1..items.len()).rev() {
        items.swap(last, dice.index(last + 1));
    }
}
