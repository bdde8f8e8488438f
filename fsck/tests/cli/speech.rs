//! What every tool can say about itself, and the demo.

use crate::bench::{Bench, DEBUG, DEMO, FSCK, MKFS, Ran};

const SEALING: &str = env!("CARGO_BIN_EXE_sealing");
const TOOLS: [(&str, &str); 5] =
    [(MKFS, "mkfs.sefs"), (FSCK, "fsck.sefs"), (DEBUG, "debug.sefs"), (DEMO, "sefs-demo"), (SEALING, "sealing")];

#[test]
fn help_and_version() {
    let bench = Bench::new();
    for (program, name) in TOOLS {
        let help = bench.run(program, &["--help"]).succeeded();
        assert!(help.text().contains(&format!("Usage: {name}")), "{}", help.text());
        let version = bench.run(program, &["--version"]).succeeded();
        assert_eq!(version.text(), format!("{name} {}\n", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn man_pages_and_completions_come_from_the_same_definition() {
    let bench = Bench::new();
    for (program, name) in TOOLS {
        let man = bench.run(program, &["--generate", "man"]).succeeded();
        assert!(man.text().contains(&format!(".TH {name} 8")), "{}", man.text());
        for shell in ["bash", "zsh", "fish"] {
            let completion = bench.run(program, &["--generate", shell]).succeeded();
            assert!(completion.text().contains(name), "{shell}");
        }
        assert_ne!(bench.run(program, &["--generate", "pdf"]).code, Some(0));
    }
    assert!(bench.run(FSCK, &["--generate", "man"]).text().contains("scrub"));
}

#[test]
fn wrong_usage_is_one_line() {
    let bench = Bench::new();
    for (program, name, code) in [(MKFS, "mkfs.sefs", 1), (FSCK, "fsck.sefs", 16), (DEBUG, "debug.sefs", 2)] {
        let see = format!("; see {name} --help");
        bench.run(program, &[]).refused(code, &[name, &see]);
        bench.run(program, &["a", "--nosuch"]).refused(code, &["--nosuch", &see]);
    }
}

#[test]
fn keys_are_not_taken_from_the_command_line() {
    let bench = Bench::new();
    for (program, _) in &TOOLS[..3] {
        let ran = bench.run(program, &["a", "--key", "00112233", "ls"]);
        assert_ne!(ran.code, Some(0));
        assert!(!ran.err.contains("00112233") || ran.err.contains("--key"), "{ran:?}");
    }
}

#[test]
fn the_demo_works() {
    let bench = Bench::new();
    let ran = bench.run(DEMO, &["--no-mount"]).succeeded();
    for part in
        ["$ mkfs.sefs demo.img --from files", "7 files, all equal", "wrong key", "data-tampered", "Everything worked."]
    {
        assert!(ran.text().contains(part), "'{part}' is not in {}", ran.text());
    }
    bench.run(DEMO, &["--no-mount", "demo"]).succeeded();
    assert!(bench.path("demo/demo.img").exists());
    let again: Ran = bench.run(DEMO, &["--no-mount", "demo"]);
    assert_eq!((again.code, again.err.matches('\n').count()), (Some(1), 1));
    assert!(again.err.contains("demo is not empty"), "{again:?}");
}

/// Every page that a page refers to can be had.
#[test]
fn commands_have_pages_too() {
    let bench = Bench::new();
    std::fs::create_dir(bench.path("man")).unwrap();
    let sealing = env!("CARGO_BIN_EXE_sealing");
    bench.run(sealing, &["--generate", "man", "man"]).succeeded();
    let read = |name: &str| std::fs::read_to_string(bench.path("man").join(name)).unwrap();
    assert!(read("sealing.8").contains("sealing\\-slots(8)"), "{}", read("sealing.8"));
    assert!(read("sealing-slots-add.8").contains("share"));
    assert_ne!(bench.run(sealing, &["--generate", "man", "nowhere"]).code, Some(0));
    let bare = bench.run(sealing, &[]);
    assert_eq!((bare.code, bare.err.as_str()), (Some(2), "sealing: no command is given; see sealing --help\n"));
}
