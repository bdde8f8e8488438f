//! The background work: while something changes or waits to be written, the volume is asked often; afterwards this thread
//! sleeps for as long as the volume says, or until the next change.

use std::time::Duration;

use sefs::error::Error;
use sefs::vfs::WorkDone;

use crate::activity::Woken;
use crate::served::Served;
use crate::shortage::Shortage;
use crate::throttle::Throttle;

/// Between looks while requests come in. A group is written after 5 ms without a change.
const TICK: Duration = Duration::from_millis(5);
/// Between looks while nothing changes but something may still have to be written.
const SLOW_TICK: Duration = Duration::from_millis(50);
/// After a failure, so that what keeps failing does not keep a processor busy.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// Works until the mount ends. A change stays unflushed for `commit_ms` of the volume at most.
pub(crate) fn run(served: &Served, shortage: &Shortage, mut throttle: Option<Throttle>) {
    let activity = &served.activity;
    let mut pause = Pause::Tick;
    let mut seen = activity.count();
    loop {
        let woken = match pause {
            Pause::None => activity.rest(Duration::ZERO),
            Pause::Tick => activity.rest(TICK),
            Pause::Failure => activity.rest(FAILURE_PAUSE),
            Pause::Quiet(time) => activity.wait(seen, time),
        };
        if woken == Woken::Closed {
            return;
        }
        let count = activity.count();
        let idle = count == seen;
        seen = count;
        let outcome = served.look(|volume| match volume.work(idle) {
            // What latched the volume was reported when it happened, and no work helps any more.
            Err(Error::Latched(_)) => Ok(None),
            other => other.map(Some),
        });
        let room = served.look(|volume| {
            if idle {
                shortage.look_again(volume);
            }
            Ok(volume.room())
        });
        if let (Ok(room), Some(throttle)) = (room, &mut throttle) {
            throttle.follow(room.available_bytes);
        }
        pause = match outcome {
            Ok(Some(WorkDone { again_ms: Some(0) })) => Pause::None,
            Ok(Some(_)) if !idle => Pause::Tick,
            Ok(Some(WorkDone { again_ms })) => {
                Pause::Quiet(again_ms.map(|time| Duration::from_millis(time).max(SLOW_TICK)))
            }
            Ok(None) | Err(_) => Pause::Failure,
        };
    }
}

enum Pause {
    None,
    Tick,
    /// Until the next change, or so long.
    Quiet(Option<Duration>),
    Failure,
}
