//! fsck.sefs --repair and --accept-loss: what a finding prints is what gives it up, and nothing else changes.

use std::fs;

use crate::bench::{Bench, Ran, pattern};

fn fsck(bench: &Bench, more: &[&str]) -> Ran {
    bench.fsck(&[&["a", "--key-file", "key"], more].concat())
}

/// A small image; its blocks behind the log that hold something.
fn small() -> (Bench, Vec<u8>, Vec<usize>) {
    let bench = Bench::new();
    fs::create_dir_all(bench.path("src/sub")).unwrap();
    fs::write(bench.path("src/hello"), "hello\n").unwrap();
    fs::write(bench.path("src/sub/large"), pattern(100_000)).unwrap();
    bench.mkfs(&["a", "--size", "4M", "--from", "src", "--key-file", "key", "-q"]).succeeded();
    let image = fs::read(bench.path("a")).unwrap();
    let header = sefs::format::Header::decode(&image[..65_536]).unwrap();
    let ring = usize::try_from(header.ring_start.0).unwrap()
        ..usize::try_from(header.ring_start.0 + header.ring_blocks).unwrap();
    let blocks = 18..image.len() / 4096 - 16;
    let used =
        blocks.filter(|block| !ring.contains(block) && image[block * 4096..][..4096].iter().any(|byte| *byte != 0));
    let used = used.collect();
    (bench, image, used)
}

/// The `--accept-loss` arguments that a check prints.
fn losses(ran: &Ran) -> Vec<String> {
    ran.json_lines().iter().filter_map(|line| Some(line.get("accept_loss")?.as_str()?.to_string())).collect()
}

#[test]
fn whatever_block_is_hit_is_given_up_by_what_its_finding_prints() {
    let (bench, image, used) = small();
    let (mut kinds, mut data) = (std::collections::BTreeSet::new(), 0);
    for block in used {
        fs::write(bench.path("a"), &image).unwrap();
        bench.flip("a", block as u64 * 4096 + 40);
        let found = fsck(&bench, &["--scrub", "--json"]);
        let named = losses(&found);
        let Some(first) = named.first() else { continue };
        let kind = first.split(':').next().unwrap().to_string();
        data += usize::from(kind == "data");
        if kind == "data" && data > 2 {
            continue;
        }
        kinds.insert(kind);
        assert_eq!(found.code, Some(4));
        let before = fs::read(bench.path("a")).unwrap();
        for automatic in ["-y", "-p"] {
            assert_eq!(fsck(&bench, &[automatic, "-f", "--scrub"]).code, Some(4));
            assert!(fs::read(bench.path("a")).unwrap() == before, "{automatic} changed the image");
        }
        let args: Vec<&str> = named.iter().flat_map(|loss| ["--accept-loss", loss]).collect();
        let ran = fsck(&bench, &args);
        assert_eq!(ran.code, Some(1), "{named:?}: {ran:?}");
        assert!(ran.text().contains(&format!("given up: {first}")), "{ran:?}");
        let clean = fsck(&bench, &["--scrub"]);
        assert_eq!((clean.code, clean.text().contains("note")), (Some(0), false), "{clean:?}");
        if first.starts_with("data:") {
            assert_eq!(bench.debug(&["a", "--key-file", "key", "cat", "hello"]).out, b"hello\n");
            let large = bench.debug(&["a", "--key-file", "key", "cat", "sub/large"]).succeeded().out;
            let differing =
                large.chunks(4096).zip(pattern(100_000).chunks(4096)).filter(|(new, old)| new != old).count();
            assert_eq!((large.len(), differing), (100_000, 1));
        }
    }
    assert!(kinds.iter().map(String::as_str).eq(["allocation", "data", "node"]), "{kinds:?}");
}

#[test]
fn json_tells_what_was_repaired() {
    let (bench, _, used) = small();
    for block in used {
        bench.flip("a", block as u64 * 4096 + 40);
        let named = losses(&fsck(&bench, &["--scrub", "--json"]));
        if named.first().is_some_and(|loss| loss.starts_with("data:")) {
            let lines = fsck(&bench, &["--accept-loss", &named[0], "--json"]).json_lines();
            let finding = lines.iter().find(|line| line["finding"] == "data-tampered").unwrap();
            assert_eq!(
                (finding["repaired"].as_bool(), finding["accept_loss"].as_str()),
                (Some(true), Some(&*named[0]))
            );
            assert!(finding["ids"]["object"].as_u64().is_some() && finding["ids"]["block"].as_u64().is_some());
            assert!(lines.iter().any(|line| line["fix"] == "given-up" && line["loss"] == true));
            assert_eq!(lines.last().unwrap()["state"], "corrected");
            return;
        }
        bench.flip("a", block as u64 * 4096 + 40);
    }
    panic!("no data block");
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let (bench, image, _) = small();
    fsck(&bench, &["--accept-loss", "3"]).refused(16, &["data:OBJECT"]);
    for mode in ["-y", "-p", "-n"] {
        assert_eq!(fsck(&bench, &[mode, "--accept-loss", "allocation"]).code, Some(16));
    }
    fsck(&bench, &["--accept-loss", "node:900"]).refused(16, &["node:900 is not damaged"]);
    assert!(fs::read(bench.path("a")).unwrap() == image);
    assert_eq!(fsck(&bench, &["--repair"]).code, Some(0));
    assert!(fs::read(bench.path("a")).unwrap() == image);
}

#[test]
fn an_anchored_volume_is_repaired_only_when_somebody_asks() {
    let bench = Bench::new();
    let args = ["a", "--key-file", "key", "--anchor", "file:anchor"];
    bench.mkfs(&[&args[..], &["--size", "4M"]].concat()).succeeded();
    let state = || (fs::read(bench.path("a")).unwrap(), fs::read(bench.path("anchor")).unwrap());
    let older = usize::from(
        bench.debug(&[&args[..], &["super", "--json"]].concat()).succeeded().json()["state"]["checkpoint"]
            .as_u64()
            .unwrap()
            .is_multiple_of(2),
    );
    bench.flip("a", sefs::format::CHECKPOINT_SLOTS[older].0 * 4096 + 100);
    let before = state();
    for automatic in ["-y", "-p"] {
        let ran = bench.fsck(&[&args[..], &[automatic, "-f"]].concat());
        assert_eq!(ran.code, Some(0), "a note: {ran:?}");
        assert!(state() == before, "{automatic} changed the image or its anchor");
    }
    bench.fsck(&[&args[..], &["--accept-loss", "log:3"]].concat()).refused(16, &["anchor", "--abandon-anchor"]);
    let ran = bench.fsck(&[&args[..], &["--repair"]].concat());
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(state().1 != before.1, "the anchor advanced with what was written");
    let ran = bench.fsck(&[&args[..], &["--scrub"]].concat());
    assert_eq!((ran.code, ran.text().contains("note")), (Some(0), false), "{ran:?}");
}
