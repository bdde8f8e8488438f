//! Appends of 4 KiB, each with a sync: what a database's log does.

use sefs::vfs::{Caller, WriteMode};

use crate::figure::{Limit, Report, Subject, Unit};
use crate::limits::bare;
use crate::place::{Dice, Place, content, make_file, on_this_thread, on_threads};
use crate::{Args, Outcome};

const BLOCK: u64 = 4096;

pub(crate) fn measure(place: &Place, args: &Args, report: &mut Report) -> Outcome<()> {
    let data = content(BLOCK as usize);
    let file_blocks = args.size / BLOCK;
    for threads in &args.threads {
        let each = args.appends.div_ceil(*threads);
        let volume = place.fresh()?;
        let files = (0..*threads).map(|thread| make_file(&volume, &format!("log {thread}")));
        let files: Vec<_> = files.collect::<Outcome<_>>()?;
        let ours = || {
            let time = on_threads(place.clock, *threads, |thread| {
                for _ in 0..each {
                    volume.write(&Caller::root(), files[usize::try_from(thread)?], 0, &data, WriteMode::Append)?;
                    volume.sync()?;
                }
                Ok(())
            })?;
            Ok((each * threads, time))
        };
        let overwrites = || {
            let time = on_threads(place.clock, *threads, |thread| {
                let mut dice = Dice::new(thread);
                for _ in 0..each {
                    let mut buf = place.bare().buffer(data.len());
                    buf.bytes_mut().copy_from_slice(&data);
                    bare(place.bare().write_at(dice.below(file_blocks) * BLOCK, buf))?;
                    bare(place.bare().flush())?;
                }
                Ok(())
            })?;
            Ok((each * threads, time))
        };
        let mut limits = vec![Limit { name: "bare overwrite and flush", measure: Box::new(overwrites) }];
        if *threads == 1 {
            let mut old = place.protected(file_blocks)?;
            let (mut next, count, data) = (0, each.div_ceil(8), &data);
            let measure = Box::new(move || {
                let time = on_this_thread(place.clock, || {
                    for _ in 0..count {
                        old.write(next % file_blocks, data)?;
                        old.flush()?;
                        next += 1;
                    }
                    Ok(())
                })?;
                Ok((count, time))
            });
            limits.push(Limit { name: "protected files", measure });
        }
        let name = "append 4 KiB and sync".into();
        let subject = Subject { name, backend: place.name(), threads: *threads, unit: Unit::Operations };
        report.measure(subject, Box::new(ours), limits)?;
        volume.close()?;
    }
    Ok(())
}
