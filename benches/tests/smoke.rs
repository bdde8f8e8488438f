//! Every measurement runs, at sizes that take seconds, and says something about everything that it measures.

use std::process::{Command, Output};

fn bench(arguments: &str, further: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sefs-bench"));
    command.args(arguments.split_whitespace()).args(further).output().unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

const TINY: &str =
    "--size 1M --files 60 --blocks 64 --appends 8 --call 4K,128K --rounds 1 --memory 4M --crypto rustcrypto";

#[test]
fn every_work_runs_with_one_thread_and_more() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("figures.json");
    let text = said(&bench(
        &format!("{TINY} --threads 1,2,4 --backend memory,file"),
        &["--json", json.to_str().unwrap(), "--dir", folder.path().to_str().unwrap()],
    ));
    for work in
        ["sequential write", "sequential read", "random 4 KiB read", "create", "list", "append 4 KiB", "90 % full"]
    {
        for backend in ["memory", "file"] {
            let figures = text.lines().filter(|line| line.contains(work) && line.contains(&format!("| {backend} |")));
            assert!(figures.count() > 0, "{work} on {backend} in\n{text}");
        }
    }
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let rates = json["figures"].as_array().unwrap().iter().map(|figure| figure["rounds"][0].as_f64().unwrap());
    assert!(rates.clone().count() > 30 && rates.clone().all(|rate| rate > 0.0 && rate.is_finite()), "{json}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "image files stay behind");
}

#[test]
fn io_uring_runs_where_the_system_has_it() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let further = ["--dir", folder.path().to_str().unwrap()];
    let output =
        bench(&format!("{TINY} --threads 1,2 --work sequential,random --backend uring,uring-direct"), &further);
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(why.contains("os error"), "{why}");
        eprintln!("SKIPPED: measuring io_uring: {}", why.trim());
        return;
    }
    assert!(said(&output).contains("| uring-direct |"));
}

const TINY_GROWTH: &str = "growth --operations 40 --volume 64M --fill 10,50 --files 20,200 --sizes 256K,2M --sparse 1M,100G \
    --entries 10,100 --overwrites 0,1 --budgets 4M,8M --volumes 64M,1G --crypto rustcrypto";

#[test]
fn everything_that_grows_is_measured_and_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("growth.json");
    let figures = folder.path().join("figures");
    let further = ["--json", json.to_str().unwrap(), "--svg", figures.to_str().unwrap()];
    let text = said(&bench(TINY_GROWTH, &further));
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let measured = json["figures"].as_array().unwrap();
    for (name, points) in [
        ("fill", vec![10, 50]),
        ("files", vec![20, 200]),
        ("mount-files", vec![20, 200]),
        ("space-files", vec![20, 200]),
        ("directory", vec![10, 100]),
        ("age", vec![1, 2]),
        ("memory", vec![4 << 20, 8 << 20]),
        ("mount", vec![64 << 20, 1 << 30]),
        ("amplification", vec![256 << 10, 2 << 20]),
    ] {
        let slug = format!("growth-{name}");
        let figure = measured.iter().find(|figure| figure["name"] == slug).unwrap_or_else(|| panic!("{slug}: {text}"));
        let at = figure["lines"][0]["points"].as_array().unwrap().iter().map(|point| point["at"].as_u64().unwrap());
        assert_eq!(at.collect::<Vec<_>>(), points, "{slug}");
        assert!(std::fs::read_to_string(figures.join(format!("{slug}.svg"))).unwrap().ends_with("</svg>\n"));
    }
    let lines = || measured.iter().flat_map(|figure| figure["lines"].as_array().unwrap());
    for operation in ["random 4 KiB read, sparse file", "readdir, an entry", "mount after a crash, 64 commits", "space"]
    {
        assert!(lines().any(|line| line["operation"] == operation), "{operation}: {text}");
        assert!(text.contains(operation), "{text}");
    }
    let amplified = lines().find(|line| line["operation"] == "random 4 KiB, each synced").unwrap();
    let least = amplified["points"].as_array().unwrap().iter().all(|point| point["value"].as_f64().unwrap() >= 1.0);
    assert!(least, "less is written than there is data: {amplified}");
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_runs() {
    for arguments in
        ["growth --operations 0", "growth --fill 100", "growth --files 0", "--rounds 0", "growth --subject none"]
    {
        assert_eq!(bench(arguments, &[]).status.code(), Some(2), "{arguments}");
    }
}
