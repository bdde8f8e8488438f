//! How a tool was called: under which name, and whether it is to print its own man page (or write that and those of its commands into a folder) or shell completion
//! instead of working: `--generate man [FOLDER]`, `--generate bash|zsh|fish`.
//!
//! `mkfs.fuse.sefs` and `fsck.fuse.sefs` are the same programs as the system's helpers: they ask nothing and print nothing
//! on success.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Command, Parser};
use clap_complete::Shell;

use crate::report::one_line;

/// Whether a tool works for a person or for mount(8)'s family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `mkfs.sefs`, `fsck.sefs`, …
    Tool,
    /// `mkfs.fuse.sefs`, `fsck.fuse.sefs`: quiet.
    Helper,
}

impl Role {
    /// The role that the name of a program stands for.
    pub fn of(program: Option<&OsString>) -> Role {
        let name = program.and_then(|program| Path::new(program).file_name()).unwrap_or_default();
        if name.as_encoded_bytes().ends_with(b".fuse.sefs") { Role::Helper } else { Role::Tool }
    }
}

/// Reads a command line. Otherwise the exit code to end with: help, version and what `--generate` prints end a tool well,
/// anything else is wrong usage.
pub fn parse<T: Parser>(args: &[OsString], usage_exit: ExitCode) -> Result<T, ExitCode> {
    let mut command = T::command();
    let name = command.get_name().to_string();
    let generate = OsStr::new("--generate");
    match args {
        [_, option, kind] if option == generate => return Err(print(&mut command, kind, usage_exit)),
        [_, option, kind, folder] if option == generate && kind == OsStr::new("man") => {
            let mut command = command.disable_help_subcommand(true);
            command.build();
            return Err(match write_pages(&command, Path::new(folder)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    let _ =
                        writeln!(std::io::stderr(), "{name}: {}: {error}; make that directory first", folder.display());
                    usage_exit
                }
            });
        }
        _ => {}
    }
    match command.try_get_matches_from_mut(args).and_then(|mut matches| T::from_arg_matches_mut(&mut matches)) {
        Ok(parsed) => Ok(parsed),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            let _ = error.print();
            Err(ExitCode::SUCCESS)
        }
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = writeln!(std::io::stderr(), "{name}: no command is given; see {name} --help");
            Err(usage_exit)
        }
        Err(error) => {
            // clap spreads what it says over several lines: usage, tips. One line is our rule, and its first says it.
            let text = error.render().to_string();
            let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("wrong usage");
            let listed: Vec<&str> = text.lines().skip(1).filter(|line| line.starts_with("  ")).map(str::trim).collect();
            let reason =
                [&[first.trim_start_matches("error: ")][..], &listed[..listed.len().min(3)]].concat().join(" ");
            let _ = writeln!(std::io::stderr(), "{name}: {}; see {name} --help", one_line(&reason));
            Err(usage_exit)
        }
    }
}

/// A command's man page.
fn page(command: &Command) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let man = clap_mangen::Man::new(command.clone()).section("8").source("SEFS").manual("System Administration");
    man.render(&mut text).map(|()| text)
}

/// Writes the page of a command, and those of its commands, that it refers to.
fn write_pages(command: &Command, folder: &Path) -> std::io::Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    std::fs::write(folder.join(format!("{name}.8")), page(command)?)?;
    command.get_subcommands().filter(|command| !command.is_hide_set()).try_for_each(|it| write_pages(it, folder))
}

fn print(command: &mut Command, kind: &OsStr, usage_exit: ExitCode) -> ExitCode {
    let mut text = Vec::new();
    let name = command.get_name().to_string();
    match kind.to_str() {
        Some("man") => match page(command) {
            Ok(man) => text = man,
            Err(_) => return usage_exit,
        },
        Some("bash") => clap_complete::generate(Shell::Bash, command, &name, &mut text),
        Some("zsh") => clap_complete::generate(Shell::Zsh, command, &name, &mut text),
        Some("fish") => clap_complete::generate(Shell::Fish, command, &name, &mut text),
        _ => {
            let _ = writeln!(std::io::stderr(), "{name}: --generate takes man, bash, zsh or fish");
            return usage_exit;
        }
    }
    match std::io::stdout().write_all(&text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => usage_exit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helpers_are_known_by_their_names() {
        for (name, role) in [
            ("mkfs.sefs", Role::Tool),
            ("/sbin/mkfs.fuse.sefs", Role::Helper),
            ("/usr/sbin/fsck.fuse.sefs", Role::Helper),
            ("/usr/lib/mkfs.fuse.sefs/mkfs-sefs", Role::Tool),
            ("", Role::Tool),
        ] {
            assert_eq!(Role::of(Some(&name.into())), role, "{name}");
        }
    }
}
