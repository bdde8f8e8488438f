//! Sequential writes, synced at the end, and reads of what was written.

use sefs::types::InodeNo;
use sefs::vfs::{Caller, Volume, WriteMode};
use sefs_tools::size;

use crate::figure::{Limit, Report, Subject, Unit};
use crate::limits::{self, Load, Order};
use crate::place::{Place, content, make_file, on_threads};
use crate::{Args, Outcome};

pub(crate) fn measure(place: &Place, args: &Args, report: &mut Report) -> Outcome<()> {
    for threads in &args.threads {
        for call in &args.call {
            let load = Load { bytes: args.size, call: *call, threads: *threads, clock: place.clock };
            writes(place, load, report)?;
            reads(place, load, Cache::Warm, report)?;
            if place.has_disk() {
                reads(place, load, Cache::Cold, report)?;
            }
        }
    }
    Ok(())
}

fn subject(place: &Place, what: &str, load: Load) -> Subject {
    let name = format!("sequential {what}, {} calls", size::render(load.call));
    Subject { name, backend: place.name(), threads: load.threads, unit: Unit::Bytes }
}

fn writes(place: &Place, load: Load, report: &mut Report) -> Outcome<()> {
    let suite = &*place.env.suite;
    let ours = || {
        let volume = place.fresh()?;
        let files = files(&volume, load)?;
        let data = content(usize::try_from(load.call)?);
        // The first write of a mount starts its epoch.
        write_call(&volume, files[0], 0, &data)?;
        let time = on_threads(load.clock, load.threads, |thread| {
            let file = files[usize::try_from(thread)?];
            (0..load.calls_of_thread()).try_for_each(|at| write_call(&volume, file, at * load.call, &data))?;
            Ok(volume.sync()?)
        })?;
        volume.close()?;
        Ok((load.total(), time))
    };
    let mut limits = vec![
        Limit { name: "cipher and copy", measure: Box::new(|| limits::seal(suite, load)) },
        Limit { name: "memcpy", measure: Box::new(|| limits::copy(load)) },
        Limit {
            name: "bare backend",
            measure: Box::new(|| limits::raw_write(place.bare(), load, Order::OneAfterTheOther)),
        },
    ];
    if let Some(direct) = place.direct() {
        limits.push(Limit { name: DEEP, measure: Box::new(|| limits::deep(direct, load, true)) });
    }
    report.measure(subject(place, "write", load), Box::new(ours), limits)
}

/// Whether what is read is in the page cache; the volume's own caches are as after a mount.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cache {
    Warm,
    Cold,
}

const DEEP: &str = "direct I/O of 1 MiB at depth 8";

fn reads(place: &Place, load: Load, cache: Cache, report: &mut Report) -> Outcome<()> {
    let suite = &*place.env.suite;
    let volume = place.fresh()?;
    let written = files(&volume, load)?;
    fill(&volume, &written, load.bytes / load.threads)?;
    volume.close()?;
    let ours = || {
        let volume = place.reopened()?;
        if cache == Cache::Cold {
            place.cool_down()?;
        }
        let time = on_threads(load.clock, load.threads, |thread| {
            let file = written[usize::try_from(thread)?];
            let mut out = vec![0; usize::try_from(load.call)?];
            for at in 0..load.calls_of_thread() {
                if volume.read(file, at * load.call, &mut out)? != out.len() {
                    return Err("a file is shorter than it was written".into());
                }
            }
            Ok(())
        })?;
        Ok((load.total(), time))
    };
    let bare = || {
        if cache == Cache::Cold {
            place.cool_down()?;
        }
        limits::raw_read(place.bare(), load, Order::OneAfterTheOther)
    };
    let mut limits = vec![
        Limit { name: "cipher and copy", measure: Box::new(|| limits::open(suite, load)) },
        Limit { name: "memcpy", measure: Box::new(|| limits::copy(load)) },
        Limit { name: "bare backend", measure: Box::new(bare) },
    ];
    let what = match cache {
        Cache::Warm => "read",
        Cache::Cold => "cold read",
    };
    if let (Cache::Cold, Some(direct)) = (cache, place.direct()) {
        limits.push(Limit { name: DEEP, measure: Box::new(|| limits::deep(direct, load, false)) });
    }
    report.measure(subject(place, what, load), Box::new(ours), limits)
}

fn files(volume: &Volume, load: Load) -> Outcome<Vec<InodeNo>> {
    (0..load.threads).map(|thread| make_file(volume, &format!("file {thread}"))).collect()
}

fn write_call(volume: &Volume, file: InodeNo, offset: u64, data: &[u8]) -> Outcome<()> {
    match volume.write(&Caller::root(), file, offset, data, WriteMode::Direct)? {
        written if written == data.len() => Ok(()),
        _ => Err("a write came to an early end".into()),
    }
}

/// Writes files of so many bytes each.
pub(crate) fn fill(volume: &Volume, files: &[InodeNo], bytes: u64) -> Outcome<()> {
    const CALL: u64 = 1 << 20;
    let data = content(usize::try_from(CALL)?);
    for file in files {
        for offset in (0..bytes).step_by(1 << 20) {
            let part = &data[..usize::try_from(CALL.min(bytes - offset))?];
            write_call(volume, *file, offset, part)?;
        }
    }
    Ok(volume.sync()?)
}
