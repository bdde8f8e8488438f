//! Builds only if `sefs`, `sefs-adapters` and `sefs-manifest`, and everything they depend on, get along without `std`: the standard library
//! brings a panic handler of its own, and a second one is refused. So this proves on the host what otherwise takes a target
//! without an operating system.
#![no_std]
#![forbid(unsafe_code)]

use sefs as _;
use sefs_adapters as _;
use sefs_manifest as _;

#[panic_handler]
fn halt(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
