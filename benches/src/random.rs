//! Blocks of 4 KiB at random places of a file: read, and written with a sync at the end.

use std::time::Duration;

use sefs::types::InodeNo;
use sefs::vfs::{Caller, SetAttr, Volume, WriteMode};
use sefs_tools::size;

use crate::figure::{Limit, Report, Subject, Unit};
use crate::limits::{self, Load, Order};
use crate::place::{Dice, Place, content, make_file, on_this_thread, on_threads};
use crate::protected::Protected;
use crate::sequential::fill;
use crate::{Args, Outcome};

const BLOCK: u64 = 4096;

pub(crate) fn measure(place: &Place, args: &Args, report: &mut Report) -> Outcome<()> {
    for threads in &args.threads {
        let load = Load { bytes: args.blocks * BLOCK, call: BLOCK, threads: *threads, clock: place.clock };
        let volume = place.fresh()?;
        let file = make_file(&volume, "file")?;
        let file_bytes = args.sparse.unwrap_or(args.size);
        let run = Run { volume, file, file_blocks: file_bytes / BLOCK, sparse: args.sparse };
        if run.sparse.is_some() {
            let change = SetAttr { size: Some(file_bytes), ..SetAttr::default() };
            run.volume.set_attr(&Caller::root(), file, &change)?;
            // The same places as later, so that reads find content.
            run.overwrite(load)?;
        } else {
            fill(&run.volume, &[file], args.size)?;
        }
        run.volume.close()?;
        let run = Run { volume: place.reopened()?, ..run };
        let mut protected = None;
        if *threads == 1 && run.sparse.is_none() {
            protected = Some(place.protected(run.file_blocks)?);
        }
        run.reads(place, load, protected.as_mut(), report)?;
        if place.has_disk() {
            run.cold_reads(place, load, report)?;
        }
        run.writes(place, load, protected.as_mut(), report)?;
        run.volume.close()?;
    }
    Ok(())
}

struct Run {
    volume: Volume,
    file: InodeNo,
    file_blocks: u64,
    sparse: Option<u64>,
}

impl Run {
    fn subject(&self, place: &Place, what: &str, load: Load) -> Subject {
        let of = self.sparse.map(|bytes| format!(", sparse file of {}", size::render(bytes))).unwrap_or_default();
        let name = format!("random 4 KiB {what}{of}");
        Subject { name, backend: place.name(), threads: load.threads, unit: Unit::Operations }
    }

    /// Writes blocks at random places, the same each time.
    fn overwrite(&self, load: Load) -> Outcome<Duration> {
        let data = content(BLOCK as usize);
        on_threads(load.clock, load.threads, |thread| {
            let mut dice = Dice::new(thread);
            for _ in 0..load.calls_of_thread() {
                let offset = dice.below(self.file_blocks) * BLOCK;
                self.volume.write(&Caller::root(), self.file, offset, &data, WriteMode::Direct)?;
            }
            Ok(self.volume.sync()?)
        })
    }

    fn reads(&self, place: &Place, load: Load, old: Option<&mut Protected>, report: &mut Report) -> Outcome<()> {
        let suite = &*place.env.suite;
        let ours = || self.read(load);
        let mut limits = vec![
            Limit { name: "cipher and copy", measure: Box::new(|| calls(load, limits::open(suite, load)?)) },
            Limit {
                name: "bare backend",
                measure: Box::new(|| calls(load, limits::raw_read(place.bare(), load, Order::AtRandom)?)),
            },
        ];
        if let Some(old) = old {
            let blocks = self.file_blocks;
            let measure = Box::new(move || {
                let (mut dice, mut out) = (Dice::new(0), [0; BLOCK as usize]);
                let time = on_this_thread(load.clock, || {
                    (0..load.calls_of_thread()).try_for_each(|_| old.read(dice.below(blocks), &mut out))
                })?;
                Ok((load.calls_of_thread(), time))
            });
            limits.push(Limit { name: "protected files", measure });
        }
        report.measure(self.subject(place, "read", load), Box::new(ours), limits)
    }

    /// The same with nothing in the page cache: the tree's leaves are in the volume's cache if the file is a full one that is
    /// not too large, and not if it is sparse.
    fn cold_reads(&self, place: &Place, load: Load, report: &mut Report) -> Outcome<()> {
        if self.sparse.is_none() {
            let mut out = [0; BLOCK as usize];
            for block in (0..self.file_blocks).step_by(64) {
                self.volume.read(self.file, block * BLOCK, &mut out)?;
            }
        }
        let ours = || {
            place.cool_down()?;
            self.read(load)
        };
        let bare = || {
            place.cool_down()?;
            calls(load, limits::raw_read(place.bare(), load, Order::AtRandom)?)
        };
        let limits = vec![Limit { name: "bare backend", measure: Box::new(bare) }];
        report.measure(self.subject(place, "cold read", load), Box::new(ours), limits)
    }

    fn read(&self, load: Load) -> Outcome<(u64, Duration)> {
        let time = on_threads(load.clock, load.threads, |thread| {
            let (mut dice, mut out) = (Dice::new(thread), [0; BLOCK as usize]);
            for _ in 0..load.calls_of_thread() {
                self.volume.read(self.file, dice.below(self.file_blocks) * BLOCK, &mut out)?;
            }
            Ok(())
        })?;
        Ok((load.calls_of_thread() * load.threads, time))
    }

    fn writes(&self, place: &Place, load: Load, old: Option<&mut Protected>, report: &mut Report) -> Outcome<()> {
        let suite = &*place.env.suite;
        let data = content(BLOCK as usize);
        let ours = || Ok((load.calls_of_thread() * load.threads, self.overwrite(load)?));
        let mut limits = vec![
            Limit { name: "cipher and copy", measure: Box::new(|| calls(load, limits::seal(suite, load)?)) },
            Limit {
                name: "bare backend",
                measure: Box::new(|| calls(load, limits::raw_write(place.bare(), load, Order::AtRandom)?)),
            },
        ];
        if let Some(old) = old {
            let (blocks, data) = (self.file_blocks, &data);
            // It is so much slower that a part of the work tells enough.
            let count = load.calls_of_thread().div_ceil(8);
            let measure = Box::new(move || {
                let mut dice = Dice::new(0);
                let time = on_this_thread(load.clock, || {
                    (0..count).try_for_each(|_| old.write(dice.below(blocks), data))?;
                    old.flush()
                })?;
                Ok((count, time))
            });
            limits.push(Limit { name: "protected files", measure });
        }
        report.measure(self.subject(place, "write", load), Box::new(ours), limits)
    }
}

/// The same figure in calls instead of bytes.
fn calls(load: Load, (bytes, time): (u64, Duration)) -> Outcome<(u64, Duration)> {
    Ok((bytes / load.call, time))
}
