//! `sealing`.

fn main() -> std::process::ExitCode {
    let args: Vec<std::ffi::OsString> = std::env::args_os().collect();
    sefs_tools::sealing_tool::run(&args)
}
