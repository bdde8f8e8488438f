//! What is left of keys in a process that opened a volume and closed it: nothing that can be found in its memory.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use sefs_tools::opening::{Located, Unlocked};
use sefs_tools::{ImageUse, KeyArgs, Tool};

const CHILD: &str = "SEFS_MEMORY_CHILD";

/// Opens the volume with the key file and the passphrase, and reads its root.
fn unlock(folder: &Path, args: &KeyArgs) -> Unlocked {
    let located = Located::open(&folder.join("image"), ImageUse::ReadOnly).unwrap();
    let unlocked = located.unlock(args, Tool("test")).unwrap();
    let volume = unlocked.volume().unwrap();
    volume.close().unwrap();
    unlocked
}

fn sources(folder: &Path) -> [KeyArgs; 3] {
    let platform = format!("software:root={},mrenclave={}", folder.join("root").display(), "11".repeat(32));
    [
        KeyArgs { key_file: Some(folder.join("key")), ..KeyArgs::default() },
        KeyArgs { passphrase_file: Some(folder.join("passphrase")), ..KeyArgs::default() },
        KeyArgs { platform: Some(platform), allow_development: true, ..KeyArgs::default() },
    ]
}

/// The process that is searched: only in one that the test below started does this do anything.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let keep = folder.join("keep").exists();
    let kept: Vec<Unlocked> = sources(&folder).iter().map(|args| unlock(&folder, args)).filter(|_| keep).collect();
    println!("\nopened {}", kept.len());
    std::io::stdout().flush().unwrap();
    // Until its memory was searched.
    let _ = std::io::stdin().read(&mut [0]);
    drop(kept);
}

fn start_child(folder: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(CHILD, folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("opened")), "the child did not come that far");
    child
}

/// Which of the secrets stand in memory that the process can write to.
fn found(child: &Child, secrets: &[(&'static str, Vec<u8>)]) -> Vec<&'static str> {
    let process = PathBuf::from(format!("/proc/{}", child.id()));
    let memory = File::open(process.join("mem")).unwrap();
    let maps = fs::read_to_string(process.join("maps")).unwrap();
    let (mut found, mut searched) = (Vec::new(), 0);
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (from, to) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let (from, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        if memory.read_exact_at(&mut bytes, from).is_err() {
            continue;
        }
        searched += bytes.len();
        for (name, secret) in secrets {
            if bytes.windows(secret.len()).any(|window| window == &secret[..]) {
                found.push(*name);
            }
        }
    }
    assert!(searched > 1 << 20, "only {searched} bytes could be searched");
    found.sort_unstable();
    found.dedup();
    found
}

fn end(mut child: Child) {
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[test]
fn a_process_that_is_done_with_a_volume_has_none_of_its_keys_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let key: [u8; 32] = std::array::from_fn(|at| u8::try_from(at * 7 + 3).unwrap());
    fs::write(folder.join("key"), key).unwrap();
    let passphrase = "a passphrase that nobody else has";
    fs::write(folder.join("passphrase"), passphrase).unwrap();
    sealing::platform::software::RootFile::create(&folder.join("root"), &sealing::OsRng).unwrap();
    let platform = sources(folder)[2].platform.clone().unwrap();
    let args: Vec<OsString> = ["mkfs.sefs", "--quiet", "--size", "16M", "--allow-development", "--platform", &platform]
        .into_iter()
        .map(OsString::from)
        .chain([folder.join("image").into(), "--key-file".into(), folder.join("key").into()])
        .chain(["--passphrase-file".into(), folder.join("passphrase").into()])
        .collect();
    assert_eq!(sefs_tools::mkfs::run(&args), ExitCode::SUCCESS);
    let volume_key = unlock(folder, &sources(folder)[0]).key.expose().to_vec();
    let root = fs::read(folder.join("root")).unwrap()[48..80].to_vec();
    let secrets = [
        ("key file", key.to_vec()),
        ("passphrase", passphrase.as_bytes().to_vec()),
        ("root key", root),
        ("volume key", volume_key),
    ];

    let child = start_child(folder);
    assert_eq!(found(&child, &secrets), [""; 0], "left in memory");
    end(child);

    // The search finds what is there.
    fs::write(folder.join("keep"), "").unwrap();
    let child = start_child(folder);
    let left = found(&child, &secrets);
    end(child);
    assert!(left.contains(&"volume key") && left.contains(&"key file"), "{left:?}");
}
