//! `sefs-demo`. It is all of the tools in one, so that it can be built and run alone: called under a tool's name, it is
//! that tool.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let name = args.first().and_then(|program| Path::new(program).file_name()).unwrap_or_default();
    match name.as_encoded_bytes() {
        b"mkfs.sefs" => sefs_tools::mkfs::run(&args),
        b"fsck.sefs" => sefs_tools::fsck::run(&args),
        b"debug.sefs" => sefs_tools::debug::run(&args),
        _ => sefs_tools::demo::run(&args),
    }
}
