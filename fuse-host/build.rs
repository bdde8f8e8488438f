//! Gives the built tools the names that people know.
//!
//! Cargo allows no dot in the name of a binary, and `mkfs -t sefs` looks for `mkfs.sefs`. So beside `mkfs-sefs` a link
//! `mkfs.sefs` is made, in the folder that cargo puts binaries into. A link that cannot be made is no reason to fail.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Link and binary.
const NAMES: [(&str, &str); 2] = [("mount.sefs", "mount-sefs"), ("mount.fuse.sefs", "mount-sefs")];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    // target/PROFILE/build/PACKAGE-HASH/out
    let Some(folder) = out.ancestors().nth(3).filter(|folder| folder.is_dir()) else { return };
    for (link, binary) in NAMES {
        make(folder, link, binary);
    }
}

fn make(folder: &Path, link: &str, binary: &str) {
    let link = folder.join(link);
    let _ = std::fs::remove_file(&link);
    if let Err(failure) = symlink(binary, &link) {
        println!("cargo::warning=no link {}: {failure}", link.display());
    }
}
