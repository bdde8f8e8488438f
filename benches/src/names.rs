//! Many small files: made, looked up, listed, removed.

use sefs::types::InodeNo;
use sefs::vfs::{Caller, Volume};

use crate::figure::{Report, Subject, Unit};
use crate::place::{Place, make_file, on_this_thread, on_threads};
use crate::{Args, Outcome};

pub(crate) fn measure(place: &Place, args: &Args, report: &mut Report) -> Outcome<()> {
    for threads in &args.threads {
        let each = args.files / threads;
        let name = |thread: u64, index: u64| format!("file {thread} {index}");
        let volume = place.fresh()?;
        let mut figure = |what: &str, work: &mut dyn FnMut() -> Outcome<std::time::Duration>| {
            let subject =
                Subject { name: what.into(), backend: place.name(), threads: *threads, unit: Unit::Operations };
            report.measure_once(subject, &mut || Ok((each * threads, work()?)))
        };
        figure("create, sync at the end", &mut || {
            on_threads(place.clock, *threads, |thread| {
                (0..each).try_for_each(|index| make_file(&volume, &name(thread, index)).map(drop))?;
                Ok(volume.sync()?)
            })
        })?;
        volume.close()?;
        let volume = place.reopened()?;
        figure("look up, after a mount", &mut || {
            on_threads(place.clock, *threads, |thread| {
                for index in 0..each {
                    volume.lookup(&Caller::root(), InodeNo::ROOT, name(thread, index).as_bytes())?;
                }
                Ok(())
            })
        })?;
        if *threads == 1 {
            figure("list", &mut || on_this_thread(place.clock, || list(&volume)))?;
        }
        figure("unlink, sync at the end", &mut || {
            on_threads(place.clock, *threads, |thread| {
                for index in 0..each {
                    volume.unlink(&Caller::root(), InodeNo::ROOT, name(thread, index).as_bytes())?;
                }
                Ok(volume.sync()?)
            })
        })?;
        volume.close()?;
    }
    Ok(())
}

fn list(volume: &Volume) -> Outcome<()> {
    let mut cookie = 0;
    while let Some(last) = volume.read_dir(InodeNo::ROOT, cookie, 1024)?.last() {
        cookie = last.cookie;
    }
    Ok(())
}
