//! debug.sefs diff: what differs between two images of whatever kinds, and nothing else.

use std::fs;
use std::os::unix::fs::FileExt;

use crate::bench::{Bench, DEBUG, Ran, is_root, pattern, shell};
use crate::from::make_tree;

impl Bench {
    /// `src` as a volume `v` with the key `key`, as an encrypted image `p` with `other`, and as a public one `u`, whose digest comes back.
    fn three_kinds(&self) -> String {
        make_tree(&self.path("src"));
        self.mkfs(&["v", "--from", "src", "--key-file", "key", "-q"]).succeeded();
        self.mkfs(&["p", "--from", "src", "--key-file", "other", "--read-only", "-q"]).succeeded();
        let public = self.mkfs(&["u", "--from", "src", "--read-only", "--public", "--json"]).succeeded();
        public.json()["root_digest"].as_str().unwrap().to_string()
    }

    /// Directories `src` and `new`, the same until `change` has run in `new`.
    fn changed(&self, change: &str) {
        fs::create_dir_all(self.path("src/dir/sub")).unwrap();
        fs::write(self.path("src/dir/file"), pattern(300_000)).unwrap();
        fs::write(self.path("src/dir/sub/small"), "small").unwrap();
        fs::write(self.path("src/one"), "linked").unwrap();
        fs::hard_link(self.path("src/one"), self.path("src/two")).unwrap();
        std::os::unix::fs::symlink("dir/file", self.path("src/link")).unwrap();
        fs::write(self.path("src/empty"), "").unwrap();
        assert!(shell(&format!("chmod 644 src/*o* src/empty && cp -a src new && cd new && {change}"), &self.path("")));
        for (image, from) in [("a", "src"), ("b", "new")] {
            self.mkfs(&[image, "--from", from, "--key-file", "key", "--size", "16M", "-q"]).succeeded();
        }
    }

    fn diff(&self, more: &[&str]) -> Ran {
        self.debug(&[&["a", "--key-file", "key", "diff"], more].concat())
    }
}

/// It found differences, and said nothing else.
#[track_caller]
fn differs(ran: Ran, lines: &[&str]) {
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), ""), "{ran:?}");
    assert_eq!(ran.text().lines().collect::<Vec<_>>(), lines);
}

#[test]
fn images_of_one_tree_are_the_same_whatever_they_are() {
    let bench = Bench::new();
    let digest = bench.three_kinds();
    let names = ["v", "p", "u"];
    let before = names.map(|name| fs::read(bench.path(name)).unwrap());
    let pinned = format!("u,root-digest={digest}");
    let first: [&[&str]; 3] =
        [&["v", "--key-file", "key"], &["p", "-o", "key-file=other"], &["u", "--root-digest", &digest]];
    for first in first {
        for second in ["v,key-file=key", "p,key-file=other", &pinned] {
            let ran = bench.debug(&[first, &["diff", second]].concat()).succeeded();
            assert_eq!((ran.text(), ran.err.as_str()), ("", ""), "{first:?} {second}");
        }
    }
    let told = bench.debug(&["v", "--key-file", "key", "diff", &pinned, "--json", "--times"]).succeeded().json();
    assert_eq!((told["same"].as_bool(), told["differences"].as_array().map(Vec::len)), (Some(true), Some(0)));
    assert!(told["unchanged"].as_u64().unwrap() > 10, "{told}");
    assert!(names.map(|name| fs::read(bench.path(name)).unwrap()) == before, "no byte of an image changes");
}

#[test]
fn each_change_is_named_at_its_path() {
    let bench = Bench::new();
    bench.changed(
        "chmod 600 dir/file && printf x | dd of=dir/file bs=1 seek=70000 conv=notrunc status=none && rm -r dir/sub \
         && echo now a file > dir/sub && chmod 755 dir/sub && printf 'new\\nline' > \"$(printf 'odd\\nname')\" \
         && rm two && cp -p one two && ln -sfn elsewhere link && echo longer > empty && mkdir -p new/below && touch new/below/f",
    );
    let lines = [
        "M /dir/file: mode 0644 -> 0600, content",
        "M /dir/sub: type directory -> regular file",
        "D /dir/sub/small",
        "M /empty: size 0 -> 7, content",
        "M /link: target dir/file -> elsewhere",
        "A /new/",
        "A /new/below/",
        "A /new/below/f",
        "A /odd\\nname",
        "M /two: links",
    ];
    differs(bench.diff(&["b"]), &lines);
    let told = bench.diff(&["b", "--json"]);
    assert_eq!(told.code, Some(1));
    let told = told.json();
    for (name, count) in [("added", 4), ("removed", 1), ("changed", 5)] {
        assert_eq!(told[name].as_u64(), Some(count), "{name}: {told}");
    }
    let list = told["differences"].as_array().unwrap();
    assert_eq!(list.len(), lines.len());
    let file = &list[0];
    assert_eq!(file["path"], "/dir/file");
    assert_eq!(file["aspects"], serde_json::json!(["mode", "content"]));
    assert_eq!(file["mode"], serde_json::json!(["0644", "0600"]));
    let content = serde_json::json!({"first_byte": 70_000, "end_byte": 70_001, "differing_bytes": 1});
    assert_eq!(file["content"], content);
    let grown = serde_json::json!({"first_byte": 0, "end_byte": 7, "differing_bytes": 7});
    assert_eq!(list[3]["content"], grown);
    // The other way round.
    let back = bench.debug(&["b", "--key-file", "key", "diff", "a"]);
    assert!(back.text().contains("D /new/below/f\n") && back.text().contains("A /dir/sub/small\n"), "{back:?}");
}

#[test]
fn owners_devices_and_attributes_count() {
    if !is_root() {
        return crate::bench::skipped("only root makes devices and changes owners");
    }
    let bench = Bench::new();
    fs::create_dir(bench.path("src")).unwrap();
    assert!(shell("mknod src/node c 1 3", &bench.path("")));
    bench.changed("chown 5:6 one && rm node && mknod node c 1 5");
    fs::write(bench.path("new/empty"), "").unwrap();
    let has_attributes = xattr::set(bench.path("new/empty"), "user.colour", b"green").is_ok();
    bench.mkfs(&["b", "--from", "new", "--key-file", "key", "--size", "16M", "-q", "--force"]).succeeded();
    let mut lines = vec!["M /node: device 1:3 -> 1:5", "M /one: owner 0:0 -> 5:6", "M /two: owner 0:0 -> 5:6"];
    if has_attributes {
        lines.insert(0, "M /empty: xattrs");
    }
    differs(bench.diff(&["b"]), &lines);
}

#[test]
fn names_are_compared_as_groups() {
    let bench = Bench::new();
    // Another inode number, and one name less: what both have is linked as before.
    bench.changed("ln one three && cp -p one copy && ln -f copy one && ln -f copy two && ln -f copy three && rm copy");
    differs(bench.diff(&["b"]), &["A /three"]);
    // The same numbers of links, other partners.
    bench.mkfs(&["a", "--from", "new", "--key-file", "key", "--size", "16M", "-q", "--force"]).succeeded();
    assert!(shell("cd new && cp -p one four && ln -f four three && ln one five && rm two", &bench.path("")));
    bench.mkfs(&["b", "--from", "new", "--key-file", "key", "--size", "16M", "-q", "--force"]).succeeded();
    differs(bench.diff(&["b"]), &["A /five", "A /four", "M /three: links", "D /two"]);
}

#[test]
fn times_count_if_asked_for() {
    let bench = Bench::new();
    bench.changed("touch -d @1000000000 one dir");
    assert_eq!(bench.diff(&["b"]).succeeded().text(), "");
    let ran = bench.diff(&["b", "--times"]);
    let paths: Vec<&str> = ran.text().lines().filter_map(|line| line.split(": times ").next()).collect();
    assert_eq!((ran.code, paths), (Some(1), vec!["M /dir", "M /one", "M /two"]), "{ran:?}");
    assert!(ran.text().contains("-> 1000000000.000000000\n"), "{ran:?}");
}

#[test]
fn holes_are_zeros() {
    let bench = Bench::new();
    bench.changed("true");
    let volume = bench.path("new/sparse");
    for (path, zeros) in [(bench.path("src/sparse"), true), (volume, false)] {
        let file = fs::File::create(path).unwrap();
        file.write_all_at(b"end", 3_000_000).unwrap();
        if zeros {
            file.write_all_at(&vec![0; 1 << 20], 1 << 20).unwrap();
        }
    }
    for (image, from) in [("a", "src"), ("b", "new")] {
        bench.mkfs(&[image, "--from", from, "--key-file", "key", "--size", "16M", "-q", "--force"]).succeeded();
    }
    assert_eq!(bench.diff(&["b"]).succeeded().text(), "");
    fs::File::options().write(true).open(bench.path("new/sparse")).unwrap().write_all_at(b"x", 2_000_000).unwrap();
    bench.mkfs(&["b", "--from", "new", "--key-file", "key", "--size", "16M", "-q", "--force"]).succeeded();
    differs(bench.diff(&["b"]), &["M /sparse: content"]);
    let told = bench.diff(&["b", "--json"]).json();
    assert_eq!(told["differences"][0]["content"]["first_byte"], 2_000_000);
}

#[test]
fn trouble_is_two_and_says_which_image() {
    let bench = Bench::new();
    let digest = bench.three_kinds();
    bench.mkfs(&["a", "--from", "src", "--key-file", "key", "-q"]).succeeded();
    bench.diff(&["p"]).refused(2, &["p: wrong key"]);
    bench.diff(&["u"]).refused(2, &["u: it is public", "write u,root-digest=HEX"]);
    bench.diff(&[&format!("u,root-digest={}", "0".repeat(64))]).refused(2, &["not the one demanded"]);
    bench.diff(&[&format!("u,key-file=key,root-digest={digest}")]).refused(2, &["no key authenticates it"]);
    bench.diff(&["none"]).refused(2, &["none: No such file"]);
    bench.diff(&["v,rw"]).refused(2, &["option rw"]);
    bench.debug(&["a", "--key-file", "other", "diff", "v"]).refused(2, &["a: wrong key"]);
    bench.debug(&["u", "--root-digest", &digest, "diff", "v"]).refused(2, &["v: no key is given", "v,key-file=FILE"]);
    let ran = bench.diff(&["p", "--json"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.json()["error"]["reason"].as_str().unwrap().contains("wrong key"), "{ran:?}");

    // What does not authenticate is neither the same nor different.
    let whole = fs::read(bench.path("v")).unwrap();
    let header = sefs::format::Header::decode(&whole[..65_536]).unwrap();
    let first = (header.ring_start.0 + header.ring_blocks) * 4096;
    for offset in (first..whole.len() as u64 - 65_536).step_by(4096).filter(|at| whole[*at as usize + 5] != 0) {
        bench.flip("v", offset + 5);
    }
    let ran = bench.diff(&["v"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.contains("debug.sefs: v") && ran.err.contains("tampered"), "{ran:?}");
    let ran = bench.diff(&["v", "--json"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.json()["error"]["reason"].as_str().unwrap().contains("tampered"), "{ran:?}");
}

#[test]
fn a_reader_that_goes_away_ends_a_comparison() {
    let bench = Bench::new();
    bench.changed("for i in $(seq 3000); do : > f$i; done");
    let line = format!("{DEBUG} a --key-file key diff b | head -n 1; exit ${{PIPESTATUS[0]}}");
    let ran = Ran::of(bench.command("bash", &["-c", &line]).output().unwrap());
    assert_eq!((ran.code, ran.text(), ran.err.as_str()), (Some(1), "A /f1\n", ""));
}
