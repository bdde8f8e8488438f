//! A place to work in: a temporary directory with keys, and the tools as commands.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use sefs::backend::FileBackend;
use sefs::error::Result;
use sefs::keys::VolumeKey;
use sefs::vfs::{Env, OpenOptions, Volume};
use sefs_tools::KeyArgs;

pub(crate) const MKFS: &str = env!("CARGO_BIN_EXE_mkfs-sefs");
pub(crate) const FSCK: &str = env!("CARGO_BIN_EXE_fsck-sefs");
pub(crate) const DEBUG: &str = env!("CARGO_BIN_EXE_debug-sefs");
pub(crate) const DEMO: &str = env!("CARGO_BIN_EXE_sefs-demo");

/// A temporary directory with the files `key`, `other` (another key) and `phrase`.
pub(crate) struct Bench {
    dir: tempfile::TempDir,
}

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Bench {
    pub(crate) fn new() -> Bench {
        let bench = Bench { dir: tempfile::tempdir().unwrap() };
        bench.secret("key", &[1; 32]);
        bench.secret("other", &[2; 32]);
        bench.secret("phrase", b"correct horse\n");
        bench
    }

    /// A bench with a directory `src` of two files, sealed into the image `a`.
    pub(crate) fn with_image() -> Bench {
        let bench = Bench::new();
        fs::create_dir_all(bench.path("src/sub")).unwrap();
        fs::write(bench.path("src/hello"), "hello\n").unwrap();
        fs::write(bench.path("src/sub/large"), pattern(300_000)).unwrap();
        bench.mkfs(&["a", "--from", "src", "--key-file", "key", "-q"]).succeeded();
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn secret(&self, name: &str, content: &[u8]) {
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(self.path(name)).unwrap();
        file.write_all_at(content, 0).unwrap();
    }

    pub(crate) fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.dir.path()).args(args).stdin(Stdio::null()).env_remove("SEFS_KEY_FILE");
        command
    }

    pub(crate) fn run(&self, program: &str, args: &[&str]) -> Ran {
        Ran::of(self.command(program, args).output().unwrap())
    }

    pub(crate) fn mkfs(&self, args: &[&str]) -> Ran {
        self.run(MKFS, args)
    }

    pub(crate) fn fsck(&self, args: &[&str]) -> Ran {
        self.run(FSCK, args)
    }

    pub(crate) fn debug(&self, args: &[&str]) -> Ran {
        self.run(DEBUG, args)
    }

    /// The names in the directory, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Changes one bit of a file.
    pub(crate) fn flip(&self, name: &str, offset: u64) {
        let file = fs::File::options().read(true).write(true).open(self.path(name)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
    }

    /// Opens an image within this process.
    pub(crate) fn volume(&self, image: &str, read_only: bool) -> Volume {
        self.try_volume(image, read_only).unwrap()
    }

    pub(crate) fn try_volume(&self, image: &str, read_only: bool) -> Result<Volume> {
        let path = self.path(image);
        let backend = Arc::new(FileBackend::open(&path, !read_only).unwrap());
        let header = Volume::read_header(&*backend).unwrap();
        let args = KeyArgs { key_file: Some(self.path("key")), ..KeyArgs::default() };
        let key: VolumeKey = args.key_source(&path).unwrap().open_key(&path, &header, 1 << 30).unwrap();
        let options = OpenOptions { read_only, ..OpenOptions::default() };
        Volume::open(backend, &key, &options, &Env::host())
    }
}

impl Ran {
    pub(crate) fn of(output: Output) -> Ran {
        let err = String::from_utf8(output.stderr).unwrap();
        Ran { code: output.status.code(), out: output.stdout, err }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.out).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn json_lines(&self) -> Vec<serde_json::Value> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[track_caller]
    pub(crate) fn succeeded(self) -> Ran {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// It failed with `code`, with one line on standard error that has all of `parts` and a way out, and no output.
    #[track_caller]
    pub(crate) fn refused(self, code: i32, parts: &[&str]) -> Ran {
        assert!(self.out.is_empty(), "{self:?}");
        self.failed(code, parts)
    }

    /// The same of one that was asked for JSON: the line's parts are an object on standard output.
    #[track_caller]
    pub(crate) fn told(self, code: i32, parts: &[&str]) -> Ran {
        let object = self.json();
        for part in ["thing", "reason", "way_out"] {
            let text = object["error"][part].as_str().unwrap_or_else(|| panic!("no {part} in {self:?}"));
            assert!(self.err.contains(text), "'{text}' is not in {self:?}");
        }
        self.failed(code, parts)
    }

    #[track_caller]
    fn failed(self, code: i32, parts: &[&str]) -> Ran {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.err.matches('\n').count(), 1, "not one line: {self:?}");
        assert!(self.err.contains("; "), "no way out: {self:?}");
        for part in parts {
            assert!(self.err.contains(part), "'{part}' is not in {self:?}");
        }
        self
    }
}

/// Bytes that do not repeat soon.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 7 * 31 + at % 251) as u8).collect()
}

/// Whether tests may do what only root can.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A command that works and is there.
pub(crate) fn shell(line: &str, dir: &Path) -> bool {
    let status =
        Command::new("sh").arg("-c").arg(line).current_dir(dir).stderr(Stdio::null()).stdout(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

pub(crate) fn hex(bytes: impl AsRef<OsStr>) -> String {
    bytes.as_ref().as_encoded_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Says that a test did not run: past the capture of the output of tests that pass, so that it is seen and counted.
pub(crate) fn skipped(why: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}
