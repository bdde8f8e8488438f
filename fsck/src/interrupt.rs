//! Ctrl-C and its relatives end a tool in an orderly way: they set a flag that long work looks at, so that temporary files
//! are removed.

use std::fs;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::{SigSet, Signal};

/// A flag that the first SIGINT, SIGTERM or SIGHUP sets; the second ends the process.
///
/// Must be called before other threads start: they inherit the mask that leaves the signals to the watching thread.
/// SIGXFSZ is blocked too, so that a write past the file size limit is an error instead of the process's death.
pub fn watch() -> Arc<AtomicBool> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = interrupted.clone();
    on_signal(move |signal| {
        if flag.swap(true, Ordering::Relaxed) {
            process::exit(128 + signal as i32);
        }
    });
    interrupted
}

/// Lets the first of these signals end the process with `code`. Must be called before other threads start.
pub fn exit_on_signal(code: i32) {
    on_signal(move |_| process::exit(code));
}

fn on_signal(act: impl Fn(Signal) + Send + 'static) {
    let mut watched = SigSet::empty();
    let ignored = ignored_signals();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // What the caller has told us to ignore (nohup, a shell's background job) stays ignored.
        if ignored >> (signal as i32 - 1) & 1 == 0 {
            watched.add(signal);
        }
    }
    let mut blocked = watched;
    blocked.add(Signal::SIGXFSZ);
    if blocked.thread_block().is_err() {
        return;
    }
    let watcher = move || {
        while let Ok(signal) = watched.wait() {
            act(signal);
        }
    };
    // Without the thread the signals stay blocked: then better let them end the process as usual.
    if thread::Builder::new().name("signals".into()).spawn(watcher).is_err() {
        let _ = watched.thread_unblock();
    }
}

fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
