//! mkfs.sefs --from-oci: which image is taken, that its layers are merged, and that no blob is believed unverified.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::bench::{Bench, Ran};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A layout that is being written.
struct Layout<'a> {
    bench: &'a Bench,
    index: Vec<Value>,
}

impl<'a> Layout<'a> {
    fn new(bench: &'a Bench) -> Layout<'a> {
        fs::create_dir_all(bench.path("oci/blobs/sha256")).unwrap();
        fs::write(bench.path("oci/oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
        Layout { bench, index: Vec::new() }
    }

    fn blob(&self, media_type: &str, content: &[u8]) -> Value {
        let digest: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(self.path(&digest), content).unwrap();
        json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": content.len()})
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.bench.path("oci/blobs/sha256").join(digest.trim_start_matches("sha256:"))
    }

    fn document(&self, media_type: &str, content: &Value) -> Value {
        self.blob(media_type, content.to_string().as_bytes())
    }

    fn image(&self, layers: &[Value]) -> Value {
        let config = self.document("application/vnd.oci.image.config.v1+json", &json!({}));
        self.document(MANIFEST, &json!({"schemaVersion": 2, "config": config, "layers": layers}))
    }

    /// A layer of files, compressed.
    fn layer(&self, files: &[(&str, &str)]) -> Value {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&tar(files)).unwrap();
        self.blob(LAYER, &encoder.finish().unwrap())
    }

    fn write(&self) {
        let index = json!({"schemaVersion": 2, "manifests": self.index});
        fs::write(self.bench.path("oci/index.json"), index.to_string()).unwrap();
    }

    fn mkfs(&self, name: &str) -> Ran {
        self.write();
        self.bench.mkfs(&["a", "--from-oci", name, "--read-only", "--key-file", "key", "--force", "-q"])
    }

    /// The image's paths, in their order.
    fn paths(&self, name: &str) -> String {
        self.mkfs(name).succeeded();
        let shown = self.bench.debug(&["a", "--key-file", "key", "tree", "--json"]).succeeded();
        let paths =
            shown.json_lines().iter().map(|line| line["name"].as_str().unwrap().to_string()).collect::<Vec<_>>();
        paths.join(" ")
    }
}

fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).unwrap();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn with(mut descriptor: Value, key: &str, value: Value) -> Value {
    descriptor[key] = value;
    descriptor
}

fn named(descriptor: Value, name: &str) -> Value {
    with(descriptor, "annotations", json!({"org.opencontainers.image.ref.name": name}))
}

fn platform(descriptor: Value, os: &str, architecture: &str) -> Value {
    with(descriptor, "platform", json!({"os": os, "architecture": architecture}))
}

fn host() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

#[test]
fn layers_are_merged_in_their_order() {
    let bench = Bench::new();
    let mut layout = Layout::new(&bench);
    let lower = layout.layer(&[("a", "1"), ("d/x", "2"), ("d/y", "3"), ("e/z", "4")]);
    let plain = layout.blob("application/vnd.oci.image.layer.v1.tar", &tar(&[(".wh.a", ""), ("b", "5")]));
    let zstd = ruzstd::encoding::compress_to_vec(
        &tar(&[("d/new", "6"), ("d/.wh..wh..opq", ""), ("e/.wh.z", ""), ("b", "7")])[..],
        ruzstd::encoding::CompressionLevel::Fastest,
    );
    let upper = layout.blob("application/vnd.oci.image.layer.v1.tar+zstd", &zstd);
    layout.index.push(layout.image(&[lower.clone(), plain.clone(), upper.clone()]));
    assert_eq!(layout.paths("oci"), "/b /d /d/new /e");
    assert_eq!(bench.debug(&["a", "--key-file", "key", "cat", "b"]).succeeded().out, b"7");
    layout.index = vec![layout.image(&[upper, plain, lower])];
    assert_eq!(layout.paths("oci"), "/a /b /d /d/new /d/x /d/y /e /e/z");
    bench.mkfs(&["rw", "--from-oci", "oci", "--size", "64M", "--key-file", "key", "-q"]).succeeded();
    bench.fsck(&["rw", "--key-file", "key", "--scrub"]).succeeded();
}

#[test]
fn no_blob_is_believed_unverified() {
    let bench = Bench::new();
    let mut layout = Layout::new(&bench);
    let layer = layout.layer(&[("a", "1")]);
    let other = layout.layer(&[("a", "2")]);
    let image = layout.image(std::slice::from_ref(&layer));
    layout.index = vec![image.clone()];
    layout.mkfs("oci").succeeded();
    let digest = |blob: &Value| blob["digest"].as_str().unwrap().to_string();
    // Another layer, well-formed and of the same length, in the place of the one that the manifest names.
    let content = fs::read(layout.path(&digest(&other))).unwrap();
    let kept = fs::read(layout.path(&digest(&layer))).unwrap();
    assert_eq!(content.len(), kept.len());
    let wrong_digest = ["its SHA-256 is not the one that it should have"];
    fs::write(layout.path(&digest(&layer)), &content).unwrap();
    layout.mkfs("oci").refused(1, &wrong_digest);
    fs::write(layout.path(&digest(&layer)), [&kept[..], b"x"].concat()).unwrap();
    layout.mkfs("oci").refused(1, &[&format!("should have {} bytes and has {}", kept.len(), kept.len() + 1)]);
    fs::remove_file(layout.path(&digest(&layer))).unwrap();
    layout.mkfs("oci").refused(1, &[digest(&layer).trim_start_matches("sha256:"), "No such file"]);
    fs::write(layout.path(&digest(&layer)), &kept).unwrap();
    // A manifest that names another layer.
    let manifest = fs::read_to_string(layout.path(&digest(&image))).unwrap();
    fs::write(layout.path(&digest(&image)), manifest.replace(&digest(&layer), &digest(&other))).unwrap();
    layout.mkfs("oci").refused(1, &wrong_digest);
    fs::write(layout.path(&digest(&image)), &manifest).unwrap();
    layout.index = vec![with(image.clone(), "size", json!(7))];
    layout.mkfs("oci").refused(1, &["should have 7 bytes"]);
    layout.index = vec![layout.image(&[with(layer, "size", json!(7))])];
    layout.mkfs("oci").refused(1, &["should have 7 bytes"]);
    for bad in ["sha256:../../../etc/passwd", "sha512:00", "sha256:", "../x", &digest(&image).to_uppercase()] {
        layout.index = vec![with(image.clone(), "digest", json!(bad))];
        layout.mkfs("oci").refused(1, &[&format!("'{bad}' is no SHA-256")]);
    }
}

#[test]
fn the_image_that_is_meant_is_taken() {
    let bench = Bench::new();
    let mut layout = Layout::new(&bench);
    let one = layout.image(&[layout.layer(&[("one", "1")])]);
    let two = layout.image(&[layout.layer(&[("two", "2")])]);
    let digest = two["digest"].as_str().unwrap().to_string();
    layout.index = vec![named(one.clone(), "app:1"), named(two.clone(), "app:2")];
    layout.mkfs("oci").refused(1, &["it holds several images: app:1 (sha256:", "app:2 (", "DIR:NAME"]);
    assert_eq!(layout.paths("oci:app:1"), "/one");
    assert_eq!(layout.paths("oci:app:2"), "/two");
    assert_eq!(layout.paths(&format!("oci:{digest}")), "/two");
    layout.mkfs("oci:app").refused(1, &["it holds no app", "app:1 ("]);
    // Within an index: the one for this host, whatever attestations stand beside it.
    let all = [
        platform(one.clone(), "linux", "riscv64"),
        platform(two.clone(), "linux", host()),
        platform(one.clone(), "windows", host()),
        platform(one.clone(), "unknown", "unknown"),
    ];
    layout.index = vec![layout.document(INDEX, &json!({"manifests": all}))];
    assert_eq!(layout.paths("oci"), "/two");
    let other = one["digest"].as_str().unwrap();
    assert_eq!(layout.paths(&format!("oci:{other}")), "/one");
    let twice = [platform(one.clone(), "linux", host()), platform(two.clone(), "linux", host())];
    let none = [platform(one.clone(), "linux", "riscv64"), platform(two, "linux", "s390x")];
    for (ambiguous, shown) in [(twice, host()), (none, "s390x")] {
        layout.index = vec![layout.document(INDEX, &json!({"manifests": ambiguous}))];
        layout.mkfs("oci").refused(1, &["it holds several images", &format!("for linux/{shown}")]);
    }
    let mut nested = one;
    for _ in 0..20 {
        nested = layout.document(INDEX, &json!({"manifests": [nested]}));
    }
    layout.index = vec![nested];
    layout.mkfs("oci").refused(1, &["nested too deeply"]);
}

#[test]
fn what_is_no_layout_or_no_image_is_refused() {
    let bench = Bench::new();
    let mut layout = Layout::new(&bench);
    layout.mkfs("oci").refused(1, &["it holds no image"]);
    layout.mkfs("gone").refused(1, &["gone: it is no OCI image layout"]);
    layout.mkfs("gone:x").refused(1, &["gone:x: it is no OCI image layout"]);
    let chart = layout.blob("application/vnd.cncf.helm.chart.content.v1.tar+gzip", b"x");
    layout.index = vec![layout.image(&[chart])];
    layout.mkfs("oci").refused(1, &["a layer has the media type", "helm"]);
    layout.index = vec![layout.blob("text/plain", b"x")];
    layout.mkfs("oci").refused(1, &["it has the media type 'text/plain'"]);
    layout.index = vec![layout.blob(MANIFEST, b"{")];
    layout.mkfs("oci").refused(1, &["no index or manifest"]);
    layout.index = vec![layout.blob(MANIFEST, "[".repeat(100_000).as_bytes())];
    layout.mkfs("oci").refused(1, &["no index or manifest"]);
    let file = File::options().write(true).open(bench.path("oci/oci-layout")).unwrap();
    file.set_len(5 << 20).unwrap();
    layout.mkfs("oci").refused(1, &["oci-layout is too long"]);
    fs::write(bench.path("oci/oci-layout"), r#"{"imageLayoutVersion": "2.0.0"}"#).unwrap();
    layout.mkfs("oci").refused(1, &["its version is not 1"]);
    fs::remove_file(bench.path("oci/oci-layout")).unwrap();
    nix::unistd::mkfifo(&bench.path("oci/oci-layout"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    layout.mkfs("oci").refused(1, &["oci-layout: it is no file"]);
    assert!(!bench.path("a").exists());
}

#[test]
fn a_hostile_layer_names_its_blob_and_entry() {
    let bench = Bench::new();
    let mut layout = Layout::new(&bench);
    let layer = layout.layer(&[("d/.wh..", "")]);
    layout.index = vec![layout.image(std::slice::from_ref(&layer))];
    let digest = layer["digest"].as_str().unwrap().trim_start_matches("sha256:").to_string();
    layout.mkfs("oci").refused(1, &[&format!("{digest}: d/.wh..: it is a whiteout of no name")]);
}
