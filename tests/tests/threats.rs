//! `docs/threats.md` names what there is: every sabotage, and no test, file or sabotage that does not exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What stands in backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The cells of the rows of tables.
fn rows(page: &str) -> Vec<Vec<&str>> {
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| |"));
    rows.map(|line| line.trim_matches('|').split('|').collect()).collect()
}

/// All Rust sources of the workspace's tests and rooms.
fn sources(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder of the tree") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, into);
        } else if name.ends_with(".rs") {
            into.push_str(&fs::read_to_string(&path).expect("a source"));
        }
    }
}

fn patches() -> BTreeSet<String> {
    let folder = fs::read_dir(root().join("tests/sabotage")).expect("the folder of sabotages");
    let names = folder.map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name"));
    names.filter_map(|name| name.strip_suffix(".patch").map(String::from)).collect()
}

#[test]
fn every_sabotage_is_named_and_every_name_is_one() {
    let page = read("docs/threats.md");
    let named: Vec<&str> = rows(&page).iter().filter_map(|row| row.last().copied()).flat_map(quoted).collect();
    let patches = patches();
    for name in &named {
        assert!(patches.contains(*name), "there is no sabotage {name}");
    }
    let set: BTreeSet<String> = named.iter().map(|name| String::from(*name)).collect();
    assert_eq!(set.len(), named.len(), "a sabotage is named twice");
    assert_eq!(set, patches, "a sabotage is not named");
    assert!(patches.len() >= 30, "{} sabotages are too few", patches.len());
}

#[test]
fn every_promise_has_code_a_test_and_a_sabotage() {
    let page = read("docs/threats.md");
    let rows = rows(&page);
    let mut all = String::new();
    ["sefs", "sealing", "fsck", "fuse-host", "tests"].iter().for_each(|folder| sources(&root().join(folder), &mut all));
    for number in 1..=11 {
        let name = format!("P{number}");
        let row = rows.iter().find(|row| row[0].trim() == name).unwrap_or_else(|| panic!("{name} is missing"));
        let [_, _, mechanism, tests, sabotage] = row[..] else { panic!("{name} has {} cells", row.len()) };
        let files: Vec<&str> = quoted(mechanism).filter(|word| word.contains('/')).collect();
        assert!(!files.is_empty() && quoted(sabotage).count() > 0, "{name} lacks something");
        files.iter().for_each(|file| assert!(root().join(file).is_file(), "{name}: there is no {file}"));
        let functions: Vec<&str> =
            quoted(tests).filter(|word| word.contains('_') && *word != "header_change").collect();
        assert!(!functions.is_empty(), "{name} names no test");
        for function in functions {
            assert!(all.contains(&format!("fn {function}(")), "{name}: there is no test {function}");
        }
    }
}

/// What `sabotage.sh` goes by.
#[test]
fn every_sabotage_says_what_it_removes_and_who_must_notice() {
    for name in patches() {
        let patch = read(format!("tests/sabotage/{name}.patch"));
        let mut lines = patch.lines();
        assert!(lines.next().is_some_and(|line| line.starts_with("Removes: ")), "{name}: what does it remove?");
        let test = lines.next().and_then(|line| line.strip_prefix("Test: "));
        let words: Vec<&str> = test.unwrap_or_else(|| panic!("{name}: who must notice?")).split(' ').collect();
        let (package, rest) = match words[..] {
            ["-p", package, ref rest @ ..] => (package, rest),
            ref rest => ("sefs-tests", rest),
        };
        let target = match rest {
            ["--features", _, target, ..] | [target, ..] => *target,
            [] => panic!("{name}: who must notice?"),
        };
        let folder = match package {
            "sefs-tests" => "tests",
            "sefs-tools" => "fsck",
            "sefs-fuse" => "fuse-host",
            same => same,
        };
        let (file, main) = (format!("{folder}/tests/{target}.rs"), format!("{folder}/tests/{target}/main.rs"));
        let exists = target == "--lib" || [file, main].iter().any(|path| root().join(path).is_file());
        assert!(exists, "{name}: {package} has no test binary {target}");
    }
}
