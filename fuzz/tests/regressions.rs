//! Everything that a target ever stumbled over is replayed with every build, as it was and with everything that inputs do rarely;
//! and each target gets no bytes.

use std::fs;
use std::path::Path;

use sefs_fuzz::{TARGETS, input};

/// One test, for the bound on memory is the process's.
#[test]
fn nothing_that_was_found_comes_back() {
    replay();
    input::do_everything();
    replay();
}

fn replay() {
    for (target, run) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions").join(target);
        let mut inputs: Vec<_> = match fs::read_dir(&folder) {
            Ok(entries) => entries.map(|entry| entry.expect("a folder of this repository").path()).collect(),
            Err(_) => Vec::new(),
        };
        inputs.sort();
        for path in &inputs {
            println!("{}", path.display());
            run(&fs::read(path).expect("a file of this repository"));
        }
        run(&[]);
    }
}
