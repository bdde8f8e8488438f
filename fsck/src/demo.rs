//! `sefs-demo`: the first thing to run. It makes a key, seals a small directory, checks, lists and reads it back, shows
//! that nothing of it can be read or changed without the key, and mounts it where that is possible. Every command is
//! printed as it would be typed.
//!
//! The demo is all of the tools in one: the commands that it runs are itself, under their names.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;

use crate::invocation;

/// Seal a small directory into an encrypted image, look at it, try to break it.
///
/// Without a directory, the demo works in a temporary one and removes it in the end.
#[derive(Parser, Debug)]
#[command(name = "sefs-demo", bin_name = "sefs-demo", version)]
pub struct DemoArgs {
    /// Where to work: a directory that does not exist yet or is empty. It stays afterwards.
    dir: Option<PathBuf>,
    /// Do not mount, even where that is possible.
    #[arg(long)]
    no_mount: bool,
}

/// Runs the demo; the result is the process's exit code.
pub fn run(args: &[OsString]) -> ExitCode {
    let args: DemoArgs = match invocation::parse(args, ExitCode::from(2)) {
        Ok(args) => args,
        Err(exit) => return exit,
    };
    match Demo::new(&args).and_then(|demo| demo.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(DemoError(line)) => {
            eprintln!("sefs-demo: {line}");
            ExitCode::FAILURE
        }
    }
}

struct DemoError(String);

impl From<io::Error> for DemoError {
    fn from(error: io::Error) -> DemoError {
        DemoError(error.to_string())
    }
}

type Step<T = ()> = Result<T, DemoError>;

struct Demo {
    dir: PathBuf,
    /// What is sealed.
    files: PathBuf,
    mount: bool,
    bold: bool,
    /// Removes the directory at the end, if it is ours.
    _temporary: Option<tempfile::TempDir>,
}

impl Demo {
    fn new(args: &DemoArgs) -> Step<Demo> {
        let (dir, temporary) = match &args.dir {
            Some(dir) => {
                fs::create_dir_all(dir)
                    .map_err(|error| DemoError(format!("cannot make {}: {error}", dir.display())))?;
                if fs::read_dir(dir)?.next().is_some() {
                    return Err(DemoError(format!("{} is not empty; name a new directory", dir.display())));
                }
                (dir.canonicalize()?, None)
            }
            None => {
                let temporary = tempfile::Builder::new().prefix("sefs-demo-").tempdir()?;
                (temporary.path().to_path_buf(), Some(temporary))
            }
        };
        let files = dir.join("files");
        let bold = io::stdout().is_terminal();
        let demo = Demo { dir, files, mount: !args.no_mount, bold, _temporary: temporary };
        demo.write_files()?;
        Ok(demo)
    }

    fn run(&self) -> Step {
        self.say(&format!("Working in {}", self.dir.display()));
        self.make_key()?;
        self.seal()?;
        self.show_that_nothing_is_readable()?;
        self.say("Check it, reading every block.");
        self.tool("fsck.sefs", &["demo.img", "--key-file", "demo.key", "--scrub"])?.passed()?;
        self.say("With the key, look inside.");
        self.tool("debug.sefs", &["demo.img", "--key-file", "demo.key", "tree"])?.passed()?;
        self.compare()?;
        self.try_another_key()?;
        self.try_to_change_it()?;
        self.mount()?;
        self.say("Everything worked.");
        Ok(())
    }

    fn write_files(&self) -> Step {
        for (path, mode, content) in FILES {
            let path = self.files.join(path);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&path, content)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        }
        let mut numbers = File::create(self.files.join("data/numbers"))?;
        (0..200_000_u32).try_for_each(|number| numbers.write_all(&number.to_le_bytes()))?;
        symlink("letters/alice.txt", self.files.join("newest"))?;
        fs::hard_link(self.files.join("letters/alice.txt"), self.files.join("letters/copy-for-bob.txt"))?;
        Ok(())
    }

    fn make_key(&self) -> Step {
        self.say("A key: 32 random bytes that only their owner can read.");
        self.show("(umask 077; head -c 32 /dev/urandom > demo.key)");
        let mut key = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut key)?;
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.dir.join("demo.key"))?;
        file.write_all(&key)?;
        Ok(())
    }

    fn seal(&self) -> Step {
        self.say("Seal a directory into an encrypted image.");
        self.tool("mkfs.sefs", &["demo.img", "--from", "files", "--key-file", "demo.key", "--label", "demo"])?.passed()
    }

    fn show_that_nothing_is_readable(&self) -> Step {
        self.say("Without the key, neither names nor content can be seen in it.");
        self.show("grep -c -a -e alice -e 'meet me at noon' demo.img");
        let found = count_in_file(&self.dir.join("demo.img"), &[b"alice", b"meet me at noon"])?;
        println!("{found}");
        if found == 0 { Ok(()) } else { Err(DemoError("plain text was found in the image".into())) }
    }

    fn compare(&self) -> Step {
        self.say("Read every file back and compare it with the original.");
        let mut paths = Vec::new();
        regular_files(&self.files, &mut paths)?;
        for (index, path) in paths.iter().enumerate() {
            let inside =
                path.strip_prefix(&self.files).map_err(|_| DemoError("a file outside its directory".into()))?;
            let words: [&std::ffi::OsStr; 5] =
                ["demo.img".as_ref(), "--key-file".as_ref(), "demo.key".as_ref(), "cat".as_ref(), inside.as_ref()];
            if index == 0 {
                let shown = inside.display();
                self.show(&format!("debug.sefs demo.img --key-file demo.key cat {shown} | cmp - files/{shown}"));
            }
            let output = self.command("debug.sefs").args(words).stderr(Stdio::inherit()).output()?;
            if !output.status.success() || output.stdout != fs::read(path)? {
                return Err(DemoError(format!("{} came back changed", inside.display())));
            }
        }
        println!("{} files, all equal", paths.len());
        Ok(())
    }

    fn try_another_key(&self) -> Step {
        self.say("Another key opens nothing.");
        fs::write(self.dir.join("other.key"), [7; 32])?;
        fs::set_permissions(self.dir.join("other.key"), fs::Permissions::from_mode(0o600))?;
        self.tool("debug.sefs", &["demo.img", "--key-file", "other.key", "ls", "/"])?.refused()
    }

    fn try_to_change_it(&self) -> Step {
        self.say("Whoever changes a single bit of the image is found out.");
        let path = self.dir.join("changed.img");
        fs::copy(self.dir.join("demo.img"), &path)?;
        let offset = middle_of_longest_run(&path)?;
        self.show(&format!("cp demo.img changed.img   # and then one bit of byte {offset} is flipped"));
        flip_bit(&path, offset)?;
        let words = ["changed.img", "--key-file", "demo.key", "--scrub"];
        self.tool("fsck.sefs", &words)?.refused()
    }

    fn mount(&self) -> Step {
        let Some(tool) = self.mount_tool() else {
            return Ok(());
        };
        self.say("Mount it and compare once more.");
        let mount_point = self.dir.join("mnt");
        fs::create_dir(&mount_point)?;
        self.show("mount.sefs demo.img mnt --key-file demo.key -o ro");
        let status = Command::new(tool)
            .current_dir(&self.dir)
            .args(["demo.img", "mnt", "--key-file", "demo.key", "-o", "ro"])
            .stdin(Stdio::null())
            .status()?;
        if !status.success() {
            return Err(DemoError(format!("mount.sefs ended with {status}; --no-mount leaves this step out")));
        }
        let compared = self.shell("diff -r --no-dereference files mnt");
        let unmounted = self.shell("umount mnt || fusermount3 -u mnt");
        wait_until_unmounted(&mount_point);
        compared.and(unmounted)?;
        println!("no difference");
        Ok(())
    }

    /// `mount.sefs`, if it stands beside this program or in PATH and there is a FUSE device to use.
    fn mount_tool(&self) -> Option<PathBuf> {
        let usable = File::options().read(true).write(true).open("/dev/fuse").is_ok();
        if !self.mount || !usable {
            return None;
        }
        let here = std::env::current_exe().ok()?;
        let beside = here.parent().into_iter().map(Path::to_path_buf);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let places: Vec<PathBuf> = beside.chain(std::env::split_paths(&path)).collect();
        let mut candidates = places.iter().flat_map(|place| [place.join("mount.sefs"), place.join("mount-sefs")]);
        candidates.find(|tool| tool.is_file())
    }

    /// One of the tools; it is this very program.
    fn command(&self, name: &str) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.arg0(name).current_dir(&self.dir).stdin(Stdio::null());
        command
    }

    fn tool(&self, name: &str, words: &[&str]) -> Step<Outcome> {
        self.show(&format!("{name} {}", words.join(" ")));
        let output = self.command(name).args(words).output()?;
        io::stdout().write_all(&output.stdout)?;
        io::stdout().write_all(&output.stderr)?;
        Ok(Outcome { name: name.into(), output })
    }

    fn shell(&self, line: &str) -> Step {
        self.show(line);
        let status = Command::new("/bin/sh").current_dir(&self.dir).arg("-c").arg(line).status()?;
        if status.success() { Ok(()) } else { Err(DemoError(format!("`{line}` ended with {status}"))) }
    }

    fn say(&self, text: &str) {
        if self.bold { println!("\n\x1b[1m{text}\x1b[0m") } else { println!("\n# {text}") }
    }

    fn show(&self, command: &str) {
        println!("$ {command}");
    }
}

struct Outcome {
    name: String,
    output: Output,
}

impl Outcome {
    fn passed(&self) -> Step {
        if self.output.status.success() {
            Ok(())
        } else {
            Err(DemoError(format!("{} ended with {}", self.name, self.output.status)))
        }
    }

    fn refused(&self) -> Step {
        if self.output.status.success() {
            Err(DemoError(format!("{} should have refused this", self.name)))
        } else {
            Ok(())
        }
    }
}

const FILES: [(&str, u32, &str); 5] = [
    ("README.txt", 0o644, "A small directory, to be sealed into an encrypted image.\n"),
    ("letters/alice.txt", 0o600, "Bob, meet me at noon by the old clock. Bring nobody.\n    Alice\n"),
    ("letters/bob.txt", 0o640, "Alice, I shall be there.\n    Bob\n"),
    ("bin/hello", 0o755, "#!/bin/sh\necho \"hello, ${1:-world}\"\n"),
    ("data/empty", 0o644, ""),
];
const BLOCK_BYTES: usize = sefs::types::BLOCK_SIZE;
const HEADER_BLOCKS: u64 = sefs::format::HEADER_BLOCKS;

fn regular_files(dir: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let (entry, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        if kind.is_dir() {
            regular_files(&entry, found)?;
        } else if kind.is_file() {
            found.push(entry);
        }
    }
    found.sort();
    Ok(())
}

fn count_in_file(path: &Path, words: &[&[u8]]) -> io::Result<usize> {
    let longest = words.iter().map(|word| word.len()).max().unwrap_or(0);
    let (mut file, mut window, mut found) = (File::open(path)?, Vec::new(), 0);
    let mut piece = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut piece)?;
        if count == 0 {
            return Ok(found);
        }
        // What the last piece ended with may be the beginning of a word.
        let kept = window.len();
        window.extend_from_slice(&piece[..count]);
        for word in words {
            let fresh = |place: usize| place + word.len() > kept;
            found += window.windows(word.len()).enumerate().filter(|(at, bytes)| bytes == word && fresh(*at)).count();
        }
        window.drain(..window.len().saturating_sub(longest));
    }
}

/// A byte in the middle of the longest run of blocks that hold something, which is a file's content; the header and its
/// replica are left out.
fn middle_of_longest_run(path: &Path) -> io::Result<u64> {
    let file = File::open(path)?;
    let mut block = vec![0; BLOCK_BYTES];
    let blocks = file.metadata()?.len() / BLOCK_BYTES as u64;
    let (mut run_start, mut longest) = (HEADER_BLOCKS, 0..0);
    for number in HEADER_BLOCKS..=blocks.saturating_sub(HEADER_BLOCKS) {
        file.read_exact_at(&mut block, number * BLOCK_BYTES as u64)?;
        if block.iter().all(|&byte| byte == 0) {
            if number - run_start > longest.end - longest.start {
                longest = run_start..number;
            }
            run_start = number + 1;
        }
    }
    Ok((longest.start + longest.end) / 2 * BLOCK_BYTES as u64 + 2048)
}

fn flip_bit(path: &Path, offset: u64) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    file.write_all_at(&[byte[0] ^ 1], offset)
}

fn wait_until_unmounted(mount_point: &Path) {
    let until = Instant::now() + Duration::from_secs(5);
    while fs::remove_dir(mount_point).is_err() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
}
