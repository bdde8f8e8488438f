//! Overwrites of a volume that one file nearly fills, and that was overwritten all over before.

use sefs::types::InodeNo;
use sefs::vfs::{Caller, Volume, WriteMode};

use crate::figure::{Limit, Report, Subject, Unit};
use crate::limits::{self, Load, Order};
use crate::place::{Place, Scattered, content, make_file, on_this_thread};
use crate::sequential::fill;
use crate::{Args, Outcome};

const BLOCK: u64 = 4096;

pub(crate) fn measure(place: &Place, args: &Args, report: &mut Report) -> Outcome<()> {
    let volume = place.fresh()?;
    let file = make_file(&volume, "file")?;
    let blocks = volume.stat_fs().blocks_available * args.aged_fill / 100;
    fill(&volume, &[file], blocks * BLOCK)?;
    let everything = Scattered::new(blocks);
    for _ in 0..args.overwrites {
        overwrite(&volume, file, everything.clone().take(usize::try_from(blocks)?))?;
    }
    let load = Load { bytes: args.blocks * BLOCK, call: BLOCK, threads: 1, clock: place.clock };
    let mut places = everything.cycle();
    let ours = || {
        let some = places.by_ref().take(usize::try_from(load.calls_of_thread())?);
        Ok((load.calls_of_thread(), on_this_thread(place.clock, || overwrite(&volume, file, some))?))
    };
    let bare = || {
        let (bytes, time) = limits::raw_write(place.bare(), load, Order::AtRandom)?;
        Ok((bytes / BLOCK, time))
    };
    let limits = vec![Limit { name: "bare backend", measure: Box::new(bare) }];
    let name = format!("random 4 KiB write, {} % full, overwritten {} times", args.aged_fill, args.overwrites);
    let subject = Subject { name, backend: place.name(), threads: 1, unit: Unit::Operations };
    report.measure(subject, Box::new(ours), limits)?;
    Ok(volume.close()?)
}

/// Writes blocks of a file, with a sync at the end.
fn overwrite(volume: &Volume, file: InodeNo, places: impl Iterator<Item = u64>) -> Outcome<()> {
    let data = content(BLOCK as usize);
    for block in places {
        volume.write(&Caller::root(), file, block * BLOCK, &data, WriteMode::Direct)?;
    }
    Ok(volume.sync()?)
}
