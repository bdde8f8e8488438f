//! A volume in a temporary folder, and mounts of it that end with the test.
#![allow(dead_code, reason = "each test binary uses what it needs")]

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::mount::MntFlags;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sealing::Argon2Cost;
use sefs::backend::{Backend, FileBackend};
use sefs::check::{CheckOptions, Event, check};
use sefs::keys::VolumeKey;
use sefs::vfs::{Env, FormatOptions, OpenOptions, Owner, Volume};
use sefs_tools::{Image, ImageUse, KeyArgs, VolumeId};

const TOOL: &str = env!("CARGO_BIN_EXE_mount-sefs");
/// Longer than the 10 seconds that the tool grants the users of a busy mount.
const PATIENCE: Duration = Duration::from_secs(60);

/// A volume and where to mount it. The path holds what mount options must not stumble over.
pub(crate) struct Stage {
    folder: tempfile::TempDir,
    pub(crate) image: PathBuf,
    key: PathBuf,
}

/// A mount in the foreground.
pub(crate) struct Mount {
    point: PathBuf,
    child: Child,
}

/// How a mount ended.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) said: String,
    /// What stands at its place now.
    pub(crate) mounted: Option<Line>,
}

/// A line of /proc/mounts.
pub(crate) struct Line {
    pub(crate) source: PathBuf,
    pub(crate) kind: String,
    pub(crate) options: Vec<String>,
}

/// Says that a test did not run: past the capture of the output of tests that pass, so that it is seen and counted.
pub(crate) fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

impl Stage {
    /// A fresh volume of 64 MiB; `None` where this machine cannot mount, which is said loudly.
    pub(crate) fn new() -> Option<Stage> {
        Stage::of_size(64 << 20)
    }

    /// A fresh volume of so many bytes.
    pub(crate) fn of_size(size_bytes: u64) -> Option<Stage> {
        let lack = match (nix::unistd::geteuid().is_root(), fs::metadata("/dev/fuse")) {
            (true, Ok(_)) => None,
            (false, _) => Some("it is not run by root"),
            (_, Err(_)) => Some("there is no /dev/fuse"),
        };
        if let Some(lack) = lack {
            skipped(&format!("this test mounts, and {lack}"));
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a, b");
        fs::create_dir(&inner).unwrap();
        let (image, key) = (inner.join("image,suid.sefs"), inner.join("key"));
        write_key(&key, 0x5a);
        format(&image, &key, size_bytes);
        Some(Stage { folder, image, key })
    }

    /// Checks the volume, every data block too; waits until whoever had it mounted has let go.
    pub(crate) fn check(&self) {
        let (_image, backend, key) = self.unlocked();
        let mut found = Vec::new();
        let options = CheckOptions { scrub: true, ..CheckOptions::default() };
        let summary = check(backend, &key, &options, &Env::host(), &mut |event| {
            if let Event::Finding(finding) = event {
                found.push(finding);
            }
        });
        assert_eq!(summary.unwrap().errors, 0, "{found:#?}");
    }

    /// Log groups that opening the volume replays; nothing is written.
    pub(crate) fn replayed_groups(&self) -> u64 {
        let (_image, backend, key) = self.unlocked();
        let options = OpenOptions { read_only: true, ..OpenOptions::default() };
        Volume::open(backend, &key, &options, &Env::host()).unwrap().info().replayed_groups
    }

    /// The image, once whoever had it mounted has let go, and its key.
    fn unlocked(&self) -> (Image, Arc<dyn Backend>, VolumeKey) {
        let image = Image::open(&self.image, ImageUse::ReadOnly).unwrap();
        let backend: Arc<dyn Backend> = Arc::new(FileBackend::new(image.file().try_clone().unwrap()).unwrap());
        let args = KeyArgs { key_file: Some(self.key.clone()), ..KeyArgs::default() };
        let header = Volume::read_header(&*backend).unwrap();
        let key = args.key_source(&self.image).unwrap().open_key(&self.image, &header, 1 << 20).unwrap();
        (image, backend, key)
    }

    /// Packs a directory as a public image, and puts a volume over it in the place of the stage's.
    pub(crate) fn pack_and_lie_over(&self, source: &Path) {
        let base = self.base();
        let words = [base.as_os_str(), "--from".as_ref(), source.as_os_str(), "--read-only".as_ref()];
        run(sefs_tools::mkfs::run, "mkfs.sefs", &[&words[..], &["--public".as_ref(), "--quiet".as_ref()]].concat());
        self.lie_over(&self.image);
    }

    /// Another stage with a volume over the same image.
    pub(crate) fn another_over(&self) -> Stage {
        let folder = tempfile::tempdir().unwrap();
        let other = Stage { image: folder.path().join("image"), folder, key: self.key.clone() };
        self.lie_over(&other.image);
        other
    }

    fn lie_over(&self, image: &Path) {
        let lower = self.base().to_str().unwrap().replace(',', r"\,");
        let words =
            [image.as_os_str(), "--key-file".as_ref(), self.key.as_os_str(), "--lower".as_ref(), lower.as_ref()];
        let more = ["--size", "64M", "--force", "--quiet"].map(OsStr::new);
        run(sefs_tools::mkfs::run, "mkfs.sefs", &[&words[..], &more[..]].concat());
    }

    /// The packed image that volumes lie over.
    pub(crate) fn base(&self) -> PathBuf {
        self.folder.path().join("a, b/base,nosuid.sefs")
    }

    /// Checks the volume over its image with the tool, every data block too.
    pub(crate) fn fsck(&self) {
        let words =
            [self.image.as_os_str(), "--key-file".as_ref(), self.key.as_os_str(), "-n".as_ref(), "--scrub".as_ref()];
        run(sefs_tools::fsck::run, "fsck.fuse.sefs", &words);
    }

    /// Where it is mounted.
    pub(crate) fn point(&self) -> PathBuf {
        let point = self.folder.path().join("mount point");
        fs::create_dir_all(&point).unwrap();
        point
    }

    /// A path that is in nobody's way.
    pub(crate) fn outside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The volume's key file.
    pub(crate) fn key_file(&self) -> PathBuf {
        self.key.clone()
    }

    /// A key file that is not the volume's.
    pub(crate) fn wrong_key(&self) -> PathBuf {
        let path = self.folder.path().join("wrong");
        write_key(&path, 1);
        path
    }

    /// The tool, to mount in the background.
    pub(crate) fn command(&self, options: &[&str]) -> Command {
        self.raw_command(&["{image}", "{dir}"], &[&["{key}"], options].concat())
    }

    /// The tool with these arguments; `{image}`, `{dir}` and `{key}` stand for this stage's.
    pub(crate) fn raw_command(&self, places: &[&str], options: &[&str]) -> Command {
        let mut command = Command::new(TOOL);
        for argument in places.iter().chain(options) {
            match *argument {
                "{image}" => command.arg(&self.image),
                "{dir}" => command.arg(self.point()),
                "{key}" => command.arg("--key-file").arg(&self.key),
                other => command.arg(other),
            };
        }
        command.stdin(Stdio::null()).env_remove("SEFS_KEY_FILE");
        command
    }

    /// Mounts in the foreground and waits until it is up.
    pub(crate) fn mount(&self, options: &[&str]) -> Mount {
        self.mount_as(&[&["{key}"], options].concat())
    }

    /// The same with these arguments and no key, unless one of them is `{key}`.
    pub(crate) fn mount_as(&self, arguments: &[&str]) -> Mount {
        let point = self.point();
        let mut command = self.raw_command(&["{image}", "{dir}"], &[&["-f"], arguments].concat());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while line_of(&point).is_none() {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("it did not mount: {status}: {}", said_by(&mut child));
            }
            assert!(Instant::now() < deadline, "it does not come up");
            std::thread::sleep(Duration::from_millis(5));
        }
        // The mount stands in the table before the server has shaken hands; an answer comes only afterwards.
        let _ = std::fs::metadata(&point);
        Mount { point, child }
    }
}

impl Mount {
    /// A path below the mount.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.point.clone() } else { self.point.join(name) }
    }

    /// Its line in the mount table.
    pub(crate) fn table_line(&self) -> Option<Line> {
        line_of(&self.point)
    }

    /// As umount(8) does, and waits for the server.
    pub(crate) fn umount(self) {
        // A process that another test starts has this one's files open for a moment.
        let deadline = Instant::now() + PATIENCE;
        while let Err(errno) = nix::mount::umount(&self.point) {
            assert!(errno == nix::errno::Errno::EBUSY && Instant::now() < deadline, "{errno}");
            std::thread::sleep(Duration::from_millis(5));
        }
        let ended = self.wait();
        assert_eq!(ended.code, Some(0), "{}", ended.said);
    }

    /// Sends a signal and waits for the server.
    pub(crate) fn signal(self, signal: Signal) -> Ended {
        kill(self.pid(), signal).unwrap();
        self.wait()
    }

    /// Ends the server as a crash would.
    pub(crate) fn kill(self) {
        kill(self.pid(), Signal::SIGKILL).unwrap();
        drop(self);
    }

    /// Waits for the server.
    pub(crate) fn wait(mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        let code = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status.code();
            }
            assert!(Instant::now() < deadline, "the server does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        Ended { code, said: said_by(&mut self.child), mounted: line_of(&self.point) }
    }

    /// How long this mount's process has been on a processor.
    #[allow(dead_code)]
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // After the name in brackets; in hundredths of a second.
        let ticks = stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2);
        Duration::from_millis(10 * ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum::<u64>())
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if line_of(&self.point).is_some_and(|line| line.kind == "fuse.sefs") {
            let _ = nix::mount::umount2(&self.point, MntFlags::MNT_DETACH);
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let point = self.folder.path().join("mount point");
        while line_of(&point).is_some() && nix::mount::umount2(&point, MntFlags::MNT_DETACH).is_ok() {}
    }
}

/// Runs a tool in a thread of its own, whose signals it blocks.
fn run(tool: fn(&[OsString]) -> ExitCode, name: &str, words: &[&OsStr]) {
    let args: Vec<OsString> = std::iter::once(name.into()).chain(words.iter().map(Into::into)).collect();
    let shown = format!("{args:?}");
    let exit = std::thread::spawn(move || tool(&args)).join().unwrap();
    assert_eq!(exit, ExitCode::SUCCESS, "{shown}");
}

fn said_by(child: &mut Child) -> String {
    let mut said = String::new();
    if let Some(stderr) = child.stderr.as_mut() {
        let _ = stderr.read_to_string(&mut said);
    }
    said
}

fn write_key(path: &Path, byte: u8) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, [byte; 32]).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn format(image: &Path, key: &Path, size_bytes: u64) {
    let id = VolumeId([7; 16]);
    let args = KeyArgs { key_file: Some(key.to_path_buf()), ..KeyArgs::default() };
    let env = Env::host();
    let volume_key = VolumeKey::generate(&*env.rng).unwrap();
    let slot = args.key_source(image).unwrap().slot_for(&volume_key, &id, &Argon2Cost::CHEAP).unwrap();
    let options = FormatOptions {
        size_bytes,
        volume_id: id.0,
        label: String::new(),
        slots: vec![slot],
        anchor: None,
        root: Owner { mode: 0o755, uid: 0, gid: 0 },
    };
    let file = fs::File::options().read(true).write(true).create_new(true).open(image).unwrap();
    file.set_len(size_bytes).unwrap();
    let backend: Arc<dyn Backend> = Arc::new(FileBackend::new(file).unwrap());
    Volume::format(backend, &volume_key, &options, &env).unwrap();
}

/// The newest line of the mount table for a directory.
fn line_of(point: &Path) -> Option<Line> {
    let table = fs::read_to_string("/proc/mounts").unwrap();
    let lines = table.lines().rev().map(|line| line.split(' ').collect::<Vec<_>>());
    lines
        .filter(|fields| unescape(fields[1]) == point)
        .map(|fields| Line {
            source: unescape(fields[0]),
            kind: fields[2].to_owned(),
            options: fields[3].split(',').map(str::to_owned).collect(),
        })
        .next()
}

fn unescape(field: &str) -> PathBuf {
    let mut parts = field.split('\\');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..3], 8).unwrap());
        bytes.extend(&part.as_bytes()[3..]);
    }
    PathBuf::from(OsString::from_vec(bytes))
}
