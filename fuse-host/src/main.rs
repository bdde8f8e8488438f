//! `mount.sefs`, installed under that name and as `mount.fuse.sefs`.

fn main() -> std::process::ExitCode {
    let args: Vec<std::ffi::OsString> = std::env::args_os().collect();
    sefs_fuse::run(&args)
}
