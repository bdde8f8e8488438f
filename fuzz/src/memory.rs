//! A bound on memory that holds to the byte, where libFuzzer's looks at the process once a second.
//!
//! Over the bound an allocation fails, which ends the process: libFuzzer keeps the input like that of any crash.

use std::alloc::System;
use std::panic;
use std::sync::Once;

use cap::Cap;

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

/// Runs one input with at most `budget_bytes` more than there is now. For one thread at a time: the bound is the process's.
pub fn within<T>(budget_bytes: usize, run: impl FnOnce() -> T) -> T {
    static REPORTS: Once = Once::new();
    REPORTS.call_once(unbounded_reports);
    MEMORY.set_limit(MEMORY.allocated().saturating_add(budget_bytes)).expect("a bound above what is in use");
    let result = run();
    MEMORY.set_limit(usize::MAX).expect("no bound at all");
    result
}

/// What panics is reported without a bound: a stack with its lines takes more memory than an input may, and an allocation that
/// fails while one is printed waits for itself.
fn unbounded_reports() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        MEMORY.set_limit(usize::MAX).expect("no bound at all");
        report(info);
    }));
}
