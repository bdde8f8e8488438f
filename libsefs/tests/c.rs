//! `sefs.h` is what the source says, and a C program that calls all of it works, with the shared library and the static one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use sefs::backend::FileBackend;
use sefs::env::Env;
use sefs::pack::{NewEntry, Output, PackOptions, Packer};
use sefs::types::Timestamp;
use sefs::vfs::FileKind;

fn crate_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_header_is_what_the_source_says() {
    let config = cbindgen::Config::from_file(crate_folder().join("cbindgen.toml")).unwrap();
    let mut made = Vec::new();
    cbindgen::Builder::new().with_crate(crate_folder()).with_config(config).generate().unwrap().write(&mut made);
    let path = crate_folder().join("include/sefs.h");
    if std::env::var_os("SEFS_WRITE_HEADER").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let made = String::from_utf8(made).unwrap();
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(made == written, "include/sefs.h is not what the source makes: SEFS_WRITE_HEADER=1 cargo test -p libsefs");
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{out}{err}");
    out.into_owned()
}

/// The libraries, made as users make them.
fn libraries(folder: &Path) {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().to_path_buf();
    run(Command::new(crate_folder().join("link.sh")).arg(folder).arg("--debug").env("CARGO_TARGET_DIR", target));
}

/// A public image with one file, and its root digest.
fn image(path: &Path, digest: &Path) {
    let backend = Arc::new(FileBackend::create(path, 0).unwrap());
    let options = PackOptions { label: String::new(), dedup: true, threads: 1 };
    let mut packer = Packer::new(Output::Public { backend, volume_id: None }, options, &Env::host()).unwrap();
    let time = Timestamp::default();
    let (atime, mtime, ctime, btime) = (time, time, time, time);
    let entry =
        |kind, mode| NewEntry { kind, mode, uid: 0, gid: 0, rdev: 0, atime, mtime, ctime, btime, target: Vec::new() };
    let root = packer.make_root(&entry(FileKind::Directory, 0o755)).unwrap();
    let motd = packer.make(root, b"motd", &entry(FileKind::Regular, 0o644)).unwrap();
    packer.write(motd, 0, b"welcome\n").unwrap();
    packer.end_file(motd, 8).unwrap();
    std::fs::write(digest, packer.finish([0; 32]).unwrap().root_digest.unwrap()).unwrap();
}

#[test]
fn a_c_program_works_with_the_shared_and_the_static_library() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    libraries(path);
    image(&path.join("image"), &path.join("digest"));
    let source = crate_folder().join("tests/program.c");
    let compile = |name: &str| {
        let mut command = Command::new("cc");
        command.args(["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-o"]).arg(path.join(name));
        command.arg(&source).arg("-I").arg(path);
        command
    };
    run(compile("shared").arg("-L").arg(path).args(["-lsefs", "-lpthread"]));
    run(compile("static").arg(path.join("libsefs.a")).args(["-lpthread", "-ldl", "-lm", "-lgcc_s"]));
    for name in ["shared", "static"] {
        let place = tempfile::tempdir().unwrap();
        let out = run(Command::new(path.join(name))
            .args([place.path(), &path.join("image"), &path.join("digest")])
            .env("LD_LIBRARY_PATH", path));
        assert_eq!(out, "ok\n", "{name}");
    }
    // The header serves C++ too.
    let cpp = path.join("program.cpp");
    std::fs::write(
        &cpp,
        "#include \"sefs.h\"\nint main() { return sefs_abi_version() == SEFS_ABI_VERSION ? 0 : 1; }\n",
    )
    .unwrap();
    run(Command::new("c++")
        .arg("-o")
        .arg(path.join("cpp"))
        .arg(&cpp)
        .arg("-I")
        .arg(path)
        .arg("-L")
        .arg(path)
        .arg("-lsefs"));
    run(Command::new(path.join("cpp")).env("LD_LIBRARY_PATH", path));
    exported(path);
}

/// The shared library exports what the header declares, under the version of the interface, and nothing else.
fn exported(folder: &Path) {
    let listed = run(Command::new("nm").args(["-D", "--defined-only"]).arg(folder.join("libsefs.so")));
    let mut names: Vec<&str> = listed
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2))
        .filter(|name| *name != "SEFS_1")
        .map(|name| name.strip_suffix("@@SEFS_1").unwrap_or_else(|| panic!("{name} has no version")))
        .collect();
    names.sort_unstable();
    let header = std::fs::read_to_string(crate_folder().join("include/sefs.h")).unwrap();
    let mut declared: Vec<&str> = header
        .lines()
        .filter(|line| !line.starts_with("//") && !line.starts_with("typedef") && !line.starts_with(' '))
        .filter_map(|line| line.split_once('(')?.0.rsplit([' ', '*']).next())
        .filter(|name| name.starts_with("sefs_"))
        .collect();
    declared.sort_unstable();
    assert!(declared.len() > 40, "{declared:?}");
    assert_eq!(names, declared);
}
