//! An OCI image layout (image specification 1.1, "Image Layout"): from `index.json` over a manifest to the layers.
//!
//! *Security*: of a blob nothing is believed before its length and its SHA-256 are those of the descriptor that named it. A layer
//! is read twice for that, first for its digest and then for its content, and the digest is compared after the second reading
//! too: a blob that changes between the two is refused. The index itself has no digest: who pins an image gives its digest.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::refusal::Refusal;
use super::{Archive, BUFFER_BYTES, Role, Watch, Watched};
use crate::names::escaped;
use crate::report::Failure;
use crate::showing::hex;
use crate::volume_id::decode_hex;

/// A layout, and which of its images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OciName {
    pub(crate) layout: PathBuf,
    reference: Option<String>,
}

impl OciName {
    /// `DIR` or `DIR:REF`. Both parts may have colons: DIR is the shortest part before one that is a directory.
    pub(crate) fn parse(text: &Path) -> OciName {
        let bytes = text.as_os_str().as_bytes();
        let alone = OciName { layout: text.to_path_buf(), reference: None };
        if text.is_dir() {
            return alone;
        }
        let colons = bytes.iter().enumerate().filter(|(_, byte)| **byte == b':').map(|(at, _)| at);
        let split = |at: usize| {
            let layout = PathBuf::from(std::ffi::OsStr::from_bytes(&bytes[..at]));
            let reference = std::str::from_utf8(&bytes[at + 1..]).ok()?.to_string();
            layout.is_dir().then_some(OciName { layout, reference: Some(reference) })
        };
        colons.filter_map(split).next().unwrap_or(alone)
    }
}

impl Archive {
    /// Reads all layers of an image. Content waits in a file without a name in `spool`.
    pub(crate) fn of_oci(name: &OciName, spool: &Path, watch: &mut Watch<'_>) -> Result<Archive, Failure> {
        let layout = Layout::open(&name.layout)?;
        let layers = layout.layers(name.reference.as_deref())?;
        let mut archive = Archive::new(&name.layout, spool)?;
        for layer in &layers {
            layout.apply(layer, &mut archive, watch)?;
        }
        archive.finish()
    }

    /// Bytes of the layers of an image, as they are stored.
    pub(crate) fn oci_len_bytes(name: &OciName) -> Result<u64, Failure> {
        let layers = Layout::open(&name.layout)?.layers(name.reference.as_deref())?;
        Ok(layers.iter().fold(0, |sum, layer| sum.saturating_add(layer.size)))
    }
}

struct Layout<'a> {
    dir: &'a Path,
    index: Index,
}

#[derive(Deserialize)]
struct LayoutFile {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

/// An image index. Docker's manifest lists have the same fields.
#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Descriptor>,
}

#[derive(Clone, Debug, Deserialize)]
struct Descriptor {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
    variant: Option<String>,
}

impl Descriptor {
    fn name(&self) -> Option<&str> {
        self.annotations.as_ref()?.get("org.opencontainers.image.ref.name").map(String::as_str)
    }

    fn is_index(&self) -> bool {
        INDEX_TYPES.contains(&self.media_type.as_str())
    }

    fn is_for_this_host(&self) -> bool {
        self.platform.as_ref().is_some_and(|platform| platform.os == "linux" && platform.architecture == architecture())
    }

    /// For a list of what there is.
    fn shown(&self) -> String {
        let platform = self.platform.as_ref().map(|Platform { os, architecture, variant }| {
            let variant = variant.as_ref().map(|variant| format!("/{variant}")).unwrap_or_default();
            format!(" for {os}/{architecture}{variant}")
        });
        let name = self.name().map(|name| format!("{name} ")).unwrap_or_default();
        escaped(format!("{name}({}{})", self.digest, platform.unwrap_or_default()).as_bytes())
    }
}

impl Layout<'_> {
    fn open(dir: &Path) -> Result<Layout<'_>, Failure> {
        let no_layout = |why: &str| {
            Failure::new(shown(dir), format!("it is no OCI image layout: {why}"))
                .way_out("name a directory with oci-layout, index.json and blobs")
        };
        let read = |name: &str| {
            let path = dir.join(name);
            let bytes = read_bounded(&path).map_err(|error| no_layout(&format!("{name}: {error}")))?;
            if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
                return Err(no_layout(&format!("{name} is too long")));
            }
            Ok(bytes)
        };
        let file: LayoutFile =
            serde_json::from_slice(&read("oci-layout")?).map_err(|_| no_layout("oci-layout is malformed"))?;
        if !file.version.starts_with("1.") {
            return Err(no_layout("its version is not 1"));
        }
        let index = serde_json::from_slice(&read("index.json")?).map_err(|_| no_layout("index.json is malformed"))?;
        Ok(Layout { dir, index })
    }

    /// The layers of the image that is meant, the lowest first.
    fn layers(&self, reference: Option<&str>) -> Result<Vec<Descriptor>, Failure> {
        let mut chosen = self.choose(reference)?;
        for _ in 0..INDEX_DEPTH_MAX {
            if !chosen.is_index() {
                return self.layers_of(&chosen);
            }
            let index: Index = self.document(&chosen)?;
            chosen = self.one_for_this_host(index.manifests)?;
        }
        Err(Failure::new(shown(self.dir), "its indexes are nested too deeply").way_out(CHOOSE))
    }

    fn layers_of(&self, manifest: &Descriptor) -> Result<Vec<Descriptor>, Failure> {
        let blob = format!("{}: {}", shown(self.dir), escaped(manifest.digest.as_bytes()));
        let unknown = |what: &str, media_type: &str| {
            let media_type = escaped(media_type.as_bytes());
            Failure::new(&blob, format!("{what} has the media type '{media_type}', which is not known"))
                .way_out("name an image with layers that are tar streams")
        };
        if !MANIFEST_TYPES.contains(&manifest.media_type.as_str()) {
            return Err(unknown("it", &manifest.media_type));
        }
        let layers = self.document::<Manifest>(manifest)?.layers;
        if layers.len() > LAYERS_MAX {
            return Err(Failure::new(&blob, format!("it has {} layers", layers.len())).way_out("make one of fewer"));
        }
        match layers.iter().find(|layer| !LAYER_TYPES.iter().any(|known| layer.media_type.starts_with(known))) {
            Some(layer) => Err(unknown("a layer", &layer.media_type)),
            None => Ok(layers),
        }
    }

    /// What the caller named: by name or digest; the only one if nothing was named.
    fn choose(&self, reference: Option<&str>) -> Result<Descriptor, Failure> {
        let all = &self.index.manifests;
        let Some(reference) = reference else {
            return match &all[..] {
                [] => Err(Failure::new(shown(self.dir), "it holds no image").way_out("name another")),
                [only] => Ok(only.clone()),
                several => Err(several_found(self.dir, several)),
            };
        };
        let named = |it: &&Descriptor| it.name() == Some(reference) || it.digest == reference;
        let found: Vec<Descriptor> = all.iter().filter(named).cloned().collect();
        match found.len() {
            0 => match self.nested(reference)? {
                Some(found) => Ok(found),
                None => Err(Failure::new(shown(self.dir), format!("it holds no {}", escaped(reference.as_bytes())))
                    .way_out(format!("name one of {}", listed(all)))),
            },
            _ => self.one_for_this_host(found),
        }
    }

    /// A digest within nested indexes.
    fn nested(&self, digest: &str) -> Result<Option<Descriptor>, Failure> {
        if !digest.starts_with("sha256:") {
            return Ok(None);
        }
        let (mut level, mut seen) = (self.index.manifests.clone(), BTreeSet::new());
        for _ in 0..INDEX_DEPTH_MAX {
            let mut below = Vec::new();
            for index in level.iter().filter(|it| it.is_index()) {
                if seen.len() < INDEXES_MAX && seen.insert(index.digest.clone()) {
                    below.extend(self.document::<Index>(index)?.manifests);
                }
            }
            if let Some(found) = below.iter().find(|it| it.digest == digest) {
                return Ok(Some(found.clone()));
            }
            level = below;
        }
        Ok(None)
    }

    fn one_for_this_host(&self, all: Vec<Descriptor>) -> Result<Descriptor, Failure> {
        if let [only] = &all[..] {
            return Ok(only.clone());
        }
        let mut fitting = all.iter().filter(|it| it.is_for_this_host());
        match (fitting.next(), fitting.next()) {
            (Some(one), None) => Ok(one.clone()),
            _ => Err(several_found(self.dir, &all)),
        }
    }

    /// A JSON document, verified before it is read.
    fn document<T: for<'de> Deserialize<'de>>(&self, descriptor: &Descriptor) -> Result<T, Failure> {
        let path = self.blob(descriptor)?;
        let failed = |why: Refusal| {
            let way_out = why.way_out();
            Failure::new(shown(&path), why).way_out(way_out)
        };
        let bytes = read_bounded(&path).map_err(|error| failed(error.into()))?;
        check_len(descriptor, bytes.len() as u64).map_err(failed)?;
        check_digest(descriptor, Sha256::digest(&bytes).into()).map_err(failed)?;
        serde_json::from_slice(&bytes).map_err(|_| {
            Failure::new(shown(&path), "this is no index or manifest of an image").way_out("get the image again")
        })
    }

    /// Merges a layer over what is there.
    fn apply(&self, layer: &Descriptor, archive: &mut Archive, watch: &mut Watch<'_>) -> Result<(), Failure> {
        let path = self.blob(layer)?;
        let whole = |why: Refusal| why.of(b"");
        let outcome = (|| {
            let file = open_file(&path).map_err(|error| whole(error.into()))?;
            check_len(layer, file.metadata().map_err(|error| whole(error.into()))?.len()).map_err(whole)?;
            let mut ignored = |_| {};
            let mut first = Hashed::new(Watched { from: &file, stop: watch.stop, read: &mut ignored });
            let mut buffered = BufReader::with_capacity(BUFFER_BYTES, &mut first);
            io::copy(&mut buffered, &mut io::sink()).map_err(|error| whole(error.into()))?;
            first.check(layer).map_err(whole)?;
            io::Seek::rewind(&mut &file).map_err(|error| whole(error.into()))?;
            let mut second = Hashed::new(Watched { from: &file, stop: watch.stop, read: &mut *watch.read });
            let from = Box::new(BufReader::with_capacity(BUFFER_BYTES, &mut second));
            archive.apply(from, Role::Layer, watch.stop, &mut *watch.warn)?;
            io::copy(&mut second, &mut io::sink()).map_err(|error| whole(error.into()))?;
            second.check(layer).map_err(whole)
        })();
        outcome.map_err(|refused| archive.failure(&path, refused, watch.stop))
    }

    /// Where a blob is. Its digest is 64 digits, so no name leads out of the layout.
    fn blob(&self, descriptor: &Descriptor) -> Result<PathBuf, Failure> {
        match digits(&descriptor.digest) {
            Some(digest) => Ok(self.dir.join("blobs/sha256").join(hex(&digest))),
            None => {
                Err(Failure::new(shown(self.dir), format!("'{}' is no SHA-256", escaped(descriptor.digest.as_bytes())))
                    .way_out("name an image whose blobs are named by SHA-256"))
            }
        }
    }
}

/// Hashes what is read.
struct Hashed<R> {
    from: R,
    hash: Sha256,
    len_bytes: u64,
}

impl<R: Read> Hashed<R> {
    fn new(from: R) -> Hashed<R> {
        Hashed { from, hash: Sha256::new(), len_bytes: 0 }
    }

    fn check(self, descriptor: &Descriptor) -> Result<(), Refusal> {
        check_len(descriptor, self.len_bytes)?;
        check_digest(descriptor, self.hash.finalize().into())
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(out)?;
        self.hash.update(&out[..count]);
        self.len_bytes += count as u64;
        Ok(count)
    }
}

fn check_len(descriptor: &Descriptor, found_bytes: u64) -> Result<(), Refusal> {
    match descriptor.size {
        expected if expected == found_bytes => Ok(()),
        expected_bytes => Err(Refusal::BlobSize { expected_bytes, found_bytes }),
    }
}

fn check_digest(descriptor: &Descriptor, found: [u8; 32]) -> Result<(), Refusal> {
    if digits(&descriptor.digest) == Some(found) { Ok(()) } else { Err(Refusal::BlobDigest) }
}

fn digits(digest: &str) -> Option<[u8; 32]> {
    let (text, mut bytes) = (digest.strip_prefix("sha256:")?, [0; 32]);
    let lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    decode_hex(text.as_bytes(), &mut bytes).filter(|()| lower).map(|()| bytes)
}

/// Opening a fifo would wait for a writer.
fn open_file(path: &Path) -> io::Result<File> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    File::open(path)
}

/// One byte more than a document may have tells that it has more.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_file(path)?.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn several_found(dir: &Path, several: &[Descriptor]) -> Failure {
    Failure::usage(shown(dir), format!("it holds several images: {}", listed(several))).way_out(CHOOSE)
}

fn listed(all: &[Descriptor]) -> String {
    let mut shown: Vec<String> = all.iter().take(LISTED_MAX).map(Descriptor::shown).collect();
    if all.len() > LISTED_MAX {
        shown.push(format!("{} more", all.len() - LISTED_MAX));
    }
    shown.join(", ")
}

fn shown(path: &Path) -> String {
    escaped(path.as_os_str().as_bytes())
}

/// This host's architecture as Go, and so OCI, names it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

const CHOOSE: &str = "give --from-oci DIR:NAME or DIR:sha256:DIGEST";
const INDEX_TYPES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const MANIFEST_TYPES: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
/// What the media types of layers begin with; how they are compressed tell their first bytes.
const LAYER_TYPES: [&str; 4] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
];
/// Bytes of an index or a manifest (4 MiB, as registries have it).
const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
const INDEX_DEPTH_MAX: usize = 8;
const INDEXES_MAX: usize = 256;
const LAYERS_MAX: usize = 4096;
const LISTED_MAX: usize = 16;
