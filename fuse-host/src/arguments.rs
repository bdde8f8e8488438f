//! The command line: one definition, from which help, man page and completions are made too.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use nix::mount::MsFlags;
use sefs_tools::mount_options::{Atime, KernelFlags};
use sefs_tools::{Failure, KeyArgs, MountOptions, size};

/// Mount a SEFS volume or packed image as an ordinary directory, through FUSE.
///
/// The command returns once the mount is up. Unmount with umount, or without being root with "fusermount3 -u DIR". What
/// fsync acknowledged is durable; other changes are within a second. sync and syncfs promise no more than that, for the
/// kernel does not pass them on to FUSE filesystems.
#[derive(Parser, Debug, Clone)]
#[command(name = "mount.sefs", bin_name = "mount.sefs", version, max_term_width = 100, after_help = OPTIONS_HELP)]
pub struct Arguments {
    /// The file or block device that holds the volume
    #[arg(value_hint = clap::ValueHint::FilePath)]
    pub(crate) image: PathBuf,
    /// The directory to mount on
    #[arg(value_hint = clap::ValueHint::DirPath)]
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    /// Mount options, separated by commas; see below
    #[arg(short, long = "options", value_name = "OPTIONS")]
    pub(crate) options: Vec<String>,
    /// Stay in the foreground and report errors on standard error (as mount.fuse.sefs: do everything but mount)
    #[arg(short, long)]
    pub(crate) foreground: bool,
    /// Print one line of JSON about the volume once it is mounted, and one about what failed
    #[arg(long)]
    pub(crate) json: bool,
    /// Say what else is worth knowing about the volume
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Accepted from mount(8) and of no effect
    #[arg(short = 's', hide = true)]
    sloppy: bool,
    /// Accepted from mount(8) and of no effect
    #[arg(short = 'n', hide = true)]
    no_mtab: bool,
    /// The type that mount(8) was asked for
    #[arg(short = 't', value_name = "TYPE", hide = true)]
    kind: Option<String>,
    /// Tell the waiting parent through standard output that the mount is up, then go into the background
    #[arg(long, hide = true)]
    pub(crate) ready_on_stdout: bool,
}

const OPTIONS_HELP: &str = "Mount options:
  ro, rw            read-only, read-write
  allow_other       let other users in; the kernel checks permissions in any case
  suid, dev         honour set-user-id and device files (root only; default nosuid, nodev)
  noexec, noatime, nodiratime, relatime, strictatime, lazytime, sync, dirsync
                    as for every mount; reading never changes access times
  commit=SECONDS    how long a change may stay unflushed without fsync [default: 1]
  busy-poll=on|off  while requests come one after another, wait for the next without sleeping; it costs a processor
                    that nobody else wants, and shortens requests on virtual machines [default: on]
  memory=SIZE       memory for caches of the volume [default: 64M]
  key-file=FILE, passphrase-file=FILE, share-file=FILE, platform=NAME:config=FILE, allow-development,
  volume-id=UUID, root-digest=HEX, anchor=KIND:PLACE, abandon-anchor, io=HOW, crypto=WHOSE
                    as the options of the same names
  lower=IMAGE[,KEY] as --lower, once for each image; write a comma in it as \\, (lower=/base.sefs\\,key-file=/k)
Exit status: 0 mounted, 1 wrong usage, 2 system error, 4 internal error, 8 interrupted, 32 mount failed.";

/// A command line that makes sense.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) image: PathBuf,
    pub(crate) dir: PathBuf,
    pub(crate) key: KeyArgs,
    pub(crate) read_only: bool,
    pub(crate) allow_other: bool,
    pub(crate) flags: MsFlags,
    pub(crate) commit: Duration,
    pub(crate) memory_bytes: usize,
    pub(crate) busy_poll: bool,
}

impl Arguments {
    /// Reads the mount options.
    pub(crate) fn request(&self) -> Result<Request, Failure> {
        let mut options = MountOptions::parse(&self.options, self.key.clone())?;
        let request = Request {
            image: self.image.clone(),
            dir: self.dir.clone(),
            key: options.key.clone(),
            read_only: options.read_only,
            allow_other: options.take_flag("allow_other")?,
            flags: flags(options.kernel, options.read_only),
            commit: commit(options.take_value("commit")?)?,
            memory_bytes: memory(options.take_value("memory")?)?,
            busy_poll: busy_poll(options.take_value("busy-poll")?)?,
        };
        // The first is always so; the others are what fstab lines for FUSE often carry, and mean nothing here.
        for known in ["default_permissions", "nonempty"] {
            options.take_flag(known)?;
        }
        for known in ["subtype", "fsname"] {
            options.take_value(known)?;
        }
        options.finish()?;
        Ok(request)
    }
}

/// Set-user-id and device files only where they are asked for.
fn flags(kernel: KernelFlags, read_only: bool) -> MsFlags {
    let mut flags = MsFlags::empty();
    flags.set(MsFlags::MS_RDONLY, read_only);
    flags.set(MsFlags::MS_NOSUID, kernel.suid != Some(true));
    flags.set(MsFlags::MS_NODEV, kernel.dev != Some(true));
    flags.set(MsFlags::MS_NOEXEC, kernel.exec == Some(false));
    flags.set(MsFlags::MS_SYNCHRONOUS, kernel.sync == Some(true));
    flags.set(MsFlags::MS_DIRSYNC, kernel.dirsync == Some(true));
    flags.set(MsFlags::MS_NODIRATIME, kernel.diratime == Some(false));
    flags.set(MsFlags::MS_LAZYTIME, kernel.lazytime == Some(true));
    match kernel.atime {
        None | Some(Atime::Default) => {}
        Some(Atime::Never) => flags |= MsFlags::MS_NOATIME,
        Some(Atime::Relative) => flags |= MsFlags::MS_RELATIME,
        Some(Atime::Always) => flags |= MsFlags::MS_STRICTATIME,
    }
    flags
}

fn commit(value: Option<String>) -> Result<Duration, Failure> {
    let Some(text) = value else { return Ok(Duration::from_secs(1)) };
    match text.parse() {
        Ok(seconds @ 1..=300) => Ok(Duration::from_secs(seconds)),
        _ => Err(Failure::usage("option commit", format_args!("'{text}' is not a number of seconds from 1 to 300"))),
    }
}

fn busy_poll(value: Option<String>) -> Result<bool, Failure> {
    match value.as_deref() {
        None | Some("on") => Ok(true),
        Some("off") => Ok(false),
        Some(text) => Err(Failure::usage("option busy-poll", format_args!("'{text}' is neither on nor off"))),
    }
}

fn memory(value: Option<String>) -> Result<usize, Failure> {
    let Some(text) = value else { return Ok(64 << 20) };
    let wrong = |reason: String| Failure::usage("option memory", reason);
    let bytes = size::parse(&text).map_err(|error| wrong(error.to_string()))?;
    match usize::try_from(bytes) {
        Ok(bytes) if bytes >= 4 << 20 => Ok(bytes),
        _ => Err(wrong(format!("'{text}' is less than 4M"))),
    }
}

/// Called as the helper of mount(8) for the type `fuse.sefs`, where `-f` means "fake".
pub(crate) fn is_helper(program: Option<&OsString>) -> bool {
    let name = program.and_then(|program| std::path::Path::new(program).file_name()).unwrap_or_default();
    name == "mount.fuse.sefs"
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn request(args: &[&str]) -> Result<Request, String> {
        let all = ["mount.sefs", "/img", "/mnt"].into_iter().chain(args.iter().copied());
        Arguments::try_parse_from(all).unwrap().request().map_err(|failure| failure.to_string())
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn set_user_id_and_devices_only_on_request() {
        let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        assert_eq!(request(&[]).unwrap().flags, safe);
        assert_eq!(request(&["-o", "defaults,rw"]).unwrap().flags, safe);
        assert_eq!(request(&["-o", "dev,suid"]).unwrap().flags, MsFlags::empty());
        assert_eq!(request(&["-o", "dev,suid,user"]).unwrap().flags, safe | MsFlags::MS_NOEXEC);
        assert_eq!(request(&["-o", "ro,noatime"]).unwrap().flags, safe | MsFlags::MS_RDONLY | MsFlags::MS_NOATIME);
    }

    #[test]
    fn what_mount_and_fstab_pass_is_accepted() {
        let args =
            ["-n", "-s", "-t", "fuse.sefs", "-o", "rw,nofail,x-systemd.automount,_netdev,default_permissions,fsname=x"];
        assert!(request(&args).is_ok());
        assert!(request(&["-o", "key-file=/k,allow_other,commit=5,memory=8M"]).is_ok_and(|request| {
            request.allow_other && request.commit.as_secs() == 5 && request.memory_bytes == 8 << 20
        }));
    }

    #[test]
    fn nonsense_is_refused_in_words() {
        assert!(request(&["-o", "allow_root"]).unwrap_err().contains("option allow_root: it is not known"));
        assert!(request(&["-o", "commit=0"]).unwrap_err().contains("from 1 to 300"));
        assert!(request(&["-o", "memory=1M"]).unwrap_err().contains("less than 4M"));
        assert!(request(&["-o", "busy-poll=yes"]).unwrap_err().contains("neither on nor off"));
        assert!(request(&["-o", "io=fast"]).unwrap_err().contains("sync, uring or uring-direct"));
        assert!(request(&["-o", "remount"]).is_err());
    }

    #[test]
    fn the_helper_is_known_by_its_name() {
        assert!(is_helper(Some(&"/sbin/mount.fuse.sefs".into())));
        assert!(!is_helper(Some(&"/sbin/mount.sefs".into())));
        assert!(!is_helper(None));
    }
}
