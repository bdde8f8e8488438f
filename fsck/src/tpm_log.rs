//! What the TSS libraries say on standard error of their own accord, when no TPM answers or one refuses: several lines that no
//! reader of ours asked for. They say nothing with `TSS2_LOG=all+NONE`, which has to be in the environment before a thread may
//! read it; so a tool that is going to need a TPM starts itself once more with it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::config;

const VARIABLE: &str = "TSS2_LOG";
const SILENCE: &str = "all+NONE";

/// Starts this program once more, if it may need a TPM and nobody said what the libraries are to say. For the first line of `main`,
/// with its arguments: before any thread, any file and any secret. Where starting is not possible the tool goes on, less quiet.
pub fn silence(args: &[OsString]) {
    let Some((name, rest)) = args.split_first() else { return };
    if std::env::var_os(VARIABLE).is_some() || !may_need_tpm(rest, std::fs::read(config::PATH).unwrap_or_default()) {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        let _ = Command::new(program).arg0(name).args(rest).env(VARIABLE, SILENCE).exec();
    }
}

/// A platform or an anchor is named by an argument, or by the table of images.
fn may_need_tpm(args: &[OsString], table: Vec<u8>) -> bool {
    let names_one = |text: &[u8]| text.windows(3).any(|part| part == b"tpm");
    args.iter().map(OsString::as_os_str).map(OsStr::as_bytes).any(names_one) || names_one(&table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tpm_is_needed_where_one_is_named() {
        let needed = |args: &[&str], table: &str| {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            may_need_tpm(&args, table.into())
        };
        assert!(needed(&["a", "--platform", "tpm:config=x", "ls"], ""));
        assert!(needed(&["a", "--anchor=tpm:0x1500016"], ""));
        assert!(needed(&["a", "-o", "ro,anchor=tpm:0x1500016"], ""));
        assert!(needed(&["tpm", "status"], ""));
        assert!(needed(&["a", "ls"], "[[image]]\nplatform = \"tpm:config=x\"\n"));
        assert!(!needed(&["a", "--key-file", "key", "ls"], "[[image]]\nkey-file = \"x\"\n"));
        assert!(!needed(&[], ""));
    }
}
