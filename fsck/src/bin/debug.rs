//! `debug.sefs`.

fn main() -> std::process::ExitCode {
    let args: Vec<std::ffi::OsString> = std::env::args_os().collect();
    #[cfg(feature = "tpm")]
    sefs_tools::tpm_log::silence(&args);
    sefs_tools::debug::run(&args)
}
