//! The background work: while something changes or waits to be written, the volume is asked often; afterwards this thread
//! sleeps until the next change.

use std::time::{Duration, Instant};

use sefs::error::Error;

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

/// Works until the mount ends. A change stays unflushed for `commit` at most.
pub(crate) fn run(served: &Served, commit: Duration, shortage: &Shortage, mut throttle: Option<Throttle>) {
    let activity = &served.activity;
    // After the last change the volume flushes within `commit`; some ticks later nothing is left to do.
    let settling = commit + 10 * SLOW_TICK;
    let mut settled = Instant::now() + settling;
    let mut pause = Pause::Tick;
    let mut seen = activity.count();
    loop {
        let woken = match pause {
            Pause::None => activity.rest(Duration::ZERO),
            Pause::Tick => activity.rest(TICK),
            Pause::Failure => activity.rest(FAILURE_PAUSE),
            Pause::Quiet if Instant::now() >= settled => activity.wait(seen, None),
            Pause::Quiet => activity.wait(seen, Some(SLOW_TICK)),
        };
        if woken == Woken::Closed {
            return;
        }
        let count = activity.count();
        let idle = count == seen;
        seen = count;
        if !idle {
            settled = Instant::now() + settling;
        }
        let outcome = served.read(|volume| match volume.work(idle) {
            // What latched the volume was reported when it happened, and no work helps any more.
            Err(Error::Latched(_)) => Ok(None),
            other => other.map(Some),
        });
        let room = served.read(|volume| {
            if idle {
                shortage.look_again(volume);
            }
            Ok(volume.room())
        });
        if let (Ok(room), Some(throttle)) = (room, &mut throttle) {
            throttle.follow(room.available_bytes);
        }
        pause = match outcome {
            Ok(Some(done)) if done.again_ms == 0 => Pause::None,
            Ok(Some(_)) if idle => Pause::Quiet,
            Ok(Some(_)) => Pause::Tick,
            Ok(None) | Err(_) => Pause::Failure,
        };
    }
}

enum Pause {
    None,
    Tick,
    Quiet,
    Failure,
}
