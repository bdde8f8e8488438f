//! `mkfs.sefs`: makes a volume in a file or on a block device, optionally filled from a directory or an archive.
//!
//! *Invariants*: a file is made under a temporary name beside the image and renamed when it is complete and durable
//! ([`Place`]); the header is written last ([`HeaderLast`]), which guards a device. Nothing that holds data is overwritten
//! without `--force`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use sealing::{Argon2Cost, OsRng};
use sefs::anchor::{Anchor, AnchorPolicy};
use sefs::backend::Backend;
use sefs::error::{BackendError, Error, Posix};
use sefs::format::KeySlot;
use sefs::keys::VolumeKey;
use sefs::vfs::{Env, FormatOptions, NewLower, OpenOptions, Owner, Volume};
use serde_json::json;

use crate::anchor::AnchorSpec;
use crate::archive::oci::OciName;
use crate::header_last::HeaderLast;
use crate::interrupt;
use crate::invocation::{self, Role};
use crate::key_source::{KeyArgs, KeySource};
use crate::lowers::LowerImage;
use crate::mount_options::MountOptions;
use crate::names::escaped;
use crate::new_anchor::NewAnchor;
use crate::origin::Origin;
use crate::place::{Place, host_refused, is_device};
use crate::populate::{self, Counts, PopulateError, Step, Survey};
use crate::progress::{Progress, Unit};
use crate::report::{Failure, Output, Tool, harden};
use crate::size;
use crate::source::FileId;
use crate::volume_id::VolumeId;

/// Make an encrypted, integrity-protected SEFS volume in a file or on a block device, or a packed read-only image.
///
/// The image is written under a temporary name and renamed when it is complete, so a half-made image never stands under
/// the final name. On a block device, which has no second name, the header is written last. With more than one of
/// --key-file, --passphrase-file and --platform the volume gets a key slot for each, and any of them opens it.
#[derive(Parser, Debug)]
#[command(name = "mkfs.sefs", bin_name = "mkfs.sefs", version, max_term_width = 100, group(clap::ArgGroup::new("content").args(["from", "from_tar", "from_oci"])), mut_arg("volume_id", |arg| arg.help("Give the volume this id instead of a random one")), mut_arg("anchor", |arg| arg.help("Bind the volume to a new anchor, which detects rollback (file:PATH, or tpm:INDEX with TPM support; it must not exist yet)")), mut_arg("abandon_anchor", |arg| arg.hide(true)), mut_arg("root_digest", |arg| arg.hide(true)), mut_arg("share_file", |arg| arg.hide(true)), mut_arg("lower", |arg| arg.help(LOWER_HELP).help_heading("Layers")))]
pub struct MkfsArgs {
    /// The file or block device to make the volume in
    #[arg(value_hint = clap::ValueHint::FilePath)]
    pub(crate) image: PathBuf,
    /// The volume's size, as 512M or 20G (powers of 1024) [default: of content and a quarter more, at least 64M;
    /// on a device all of it]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) size: Option<u64>,
    /// Fill the volume from this directory, with all attributes
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub(crate) from: Option<PathBuf>,
    /// Fill the volume from a tar archive, plain or compressed by gzip or zstd; "-" is standard input
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) from_tar: Option<PathBuf>,
    /// Fill the volume from an image in an OCI image layout, all layers merged; REF is the image's name or its digest, which
    /// a layout of one image does not need
    #[arg(long, value_name = "DIR[:REF]", value_hint = clap::ValueHint::DirPath)]
    pub(crate) from_oci: Option<PathBuf>,
    /// With --from: do not descend into other filesystems mounted below DIR
    #[arg(long, short = 'x', requires = "from")]
    pub(crate) one_file_system: bool,
    /// With --from: leave out what cannot be read, instead of giving up
    #[arg(long, requires = "from")]
    pub(crate) skip_unreadable: bool,
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    /// The same as mount options: key-file=FILE,passphrase-file=FILE,…
    #[arg(short = 'o', value_name = "OPTION,…", help_heading = "Key and trust")]
    options: Vec<String>,
    /// When the anchor advances: at every commit (strict), or at checkpoints only [default: strict; checkpoint for a TPM,
    /// whose memory wears out]
    #[arg(long, value_enum, help_heading = "Key and trust")]
    pub(crate) anchor_policy: Option<Policy>,
    /// A name for people, at most 64 bytes
    #[arg(long, short = 'L', default_value = "", hide_default_value = true)]
    pub(crate) label: String,
    /// Replace whatever IMAGE holds
    #[arg(long)]
    pub(crate) force: bool,
    /// Print one line of JSON about the new volume, or about what failed
    #[arg(long)]
    pub(crate) json: bool,
    /// Print nothing but errors
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// Make a packed image of the content, which is read-only and as small as its content; its root digest pins it
    #[arg(long, requires = "content", help_heading = "Packed images")]
    pub(crate) read_only: bool,
    /// With --read-only: no encryption and no key; only the root digest tells the image from another
    #[arg(long, requires = "read_only", help_heading = "Packed images")]
    pub(crate) public: bool,
    /// With --read-only: the same content and key give the same bytes; times are not later than SOURCE_DATE_EPOCH, or 0
    #[arg(long, help_heading = "Packed images")]
    pub(crate) reproducible: bool,
    /// With --read-only: store equal blocks each; otherwise the host can tell which blocks of an encrypted image are equal
    #[arg(long, requires = "read_only", help_heading = "Packed images")]
    pub(crate) no_dedup: bool,
}

/// When an anchor advances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Policy {
    /// At every commit.
    Strict,
    /// At checkpoints.
    Checkpoint,
}

/// What a volume has before its anchor is made: the anchor depends on the key.
struct NewVolume {
    volume_id: VolumeId,
    key: VolumeKey,
    slots: Vec<KeySlot>,
}

/// Runs the tool: `args` start with the program's name.
pub fn run(args: &[OsString]) -> ExitCode {
    harden();
    let role = Role::of(args.first());
    let args: MkfsArgs = match invocation::parse(args, ExitCode::FAILURE) {
        Ok(args) => args,
        Err(exit) => return exit,
    };
    let quiet = args.quiet || role == Role::Helper;
    let json = args.json;
    let args = MkfsArgs { quiet, ..args };
    match Mkfs::new(args, TOOL, interrupt::watch()).and_then(|mkfs| mkfs.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            TOOL.fail_for(&failure, json);
            ExitCode::FAILURE
        }
    }
}

pub(crate) const TOOL: Tool = Tool("mkfs.sefs");
const LOWER_HELP: &str = "Make the volume over a packed image, which it is bound to by root digest; once for each, the topmost \
     first. KEY as mount options: key-file=FILE,root-digest=HEX,…; without a key the volume's own is tried. A public image without \
     root-digest is taken as it stands, and the digest that it has is what binds the volume from then on: whether it is the right \
     one, only its builder's digest tells. The volume keeps the image's path and the names of its key files, to find it again: \
     authenticated, and told to whoever has the volume's key";
/// The smallest volume that the format allows.
const LEAST_BYTES: u64 = 4 << 20;

pub(crate) struct Mkfs {
    pub(crate) args: MkfsArgs,
    /// Who speaks.
    pub(crate) tool: Tool,
    pub(crate) quiet: bool,
    pub(crate) stop: Arc<AtomicBool>,
}

/// What goes into the volume, and the volume's size.
pub(crate) struct Content {
    pub(crate) survey: Option<Survey>,
    pub(crate) size_bytes: u64,
    /// The images that the volume lies over, and what binds it to them.
    pub(crate) lowers: Vec<(LowerImage, NewLower)>,
}

impl Content {
    /// What is known before the source was looked at.
    pub(crate) fn unknown() -> Content {
        Content { survey: None, size_bytes: 0, lowers: Vec::new() }
    }
}

/// What was made.
struct Made {
    size_bytes: u64,
    volume_id: VolumeId,
    kinds: Vec<String>,
    anchor: Option<String>,
    counts: Option<Counts>,
    /// The images that it lies over, and their root digests.
    lowers: Vec<(String, String)>,
}

impl MkfsArgs {
    /// For a packed image, and all else as it is by itself.
    pub(crate) fn packed(image: PathBuf, key: KeyArgs, options: Vec<String>) -> MkfsArgs {
        MkfsArgs {
            image,
            size: None,
            from: None,
            from_tar: None,
            from_oci: None,
            one_file_system: false,
            skip_unreadable: false,
            key,
            options,
            anchor_policy: None,
            label: String::new(),
            force: false,
            json: false,
            quiet: false,
            read_only: true,
            public: false,
            reproducible: false,
            no_dedup: false,
        }
    }
}

impl Mkfs {
    /// Looks at what was asked for, and refuses what makes no sense.
    pub(crate) fn new(args: MkfsArgs, tool: Tool, stop: Arc<AtomicBool>) -> Result<Mkfs, Failure> {
        let quiet = args.quiet;
        let mut mkfs = Mkfs { args, tool, quiet, stop };
        mkfs.understand()?;
        Ok(mkfs)
    }

    fn understand(&mut self) -> Result<(), Failure> {
        self.args.key = MountOptions::key_args(&self.args.options, &self.args.key)?;
        self.refuse_unsupported()
    }

    fn run(&self) -> Result<(), Failure> {
        if self.args.read_only {
            return self.run_packed();
        }
        let sources = self.key_sources()?;
        let place = Place::find(&self.args.image, self.args.force)?;
        self.refuse_replacing_parts(&place, &sources)?;
        let origin = self.origin(&place)?;
        let lowers = self.lowers(&sources)?;
        let survey = origin.as_ref().map(|origin| self.survey(origin)).transpose()?;
        let content = Content { survey, size_bytes: self.size_bytes(&place, survey.as_ref())?, lowers };
        if let Some(survey) = &content.survey {
            place.has_room(survey.least_bytes())?;
        }
        let made = self.make(place, origin, &content, &sources)?;
        self.report(&made)
    }

    fn refuse_unsupported(&self) -> Result<(), Failure> {
        let args = &self.args;
        let asked = [
            (
                !args.key.lower.is_empty()
                    && (args.from.is_some() || args.from_tar.is_some() || args.from_oci.is_some()),
                "--lower",
                "a volume over images starts as what they hold, and takes no other content",
                "leave --from away, and copy into the mounted volume",
            ),
            (
                args.reproducible && !args.read_only,
                "--reproducible",
                "a volume that is written to is never the same",
                "give --read-only too, or leave it away",
            ),
            (
                args.from_tar.as_deref() == Some(Path::new("-"))
                    && [&args.key.key_file, &args.key.passphrase_file]
                        .into_iter()
                        .flatten()
                        .any(|it| it == Path::new("-")),
                "--from-tar",
                "the archive and the key cannot both be standard input",
                "give one of them as a file",
            ),
            (args.key.root_digest.is_some(), "--root-digest", "a new image gets its own", "leave it away"),
            (
                !args.key.share_file.is_empty(),
                "--share-file",
                "shares open volumes; they are dealt for one that exists",
                "give another key, then: sealing slots add --shares 2/3",
            ),
            (args.key.abandon_anchor, "--abandon-anchor", "a new volume has no anchor to abandon", "leave it away"),
        ];
        for (given, option, reason, way_out) in asked {
            if given {
                return Err(Failure::usage(option, reason).way_out(way_out));
            }
        }
        if args.label.len() > 64 {
            return Err(Failure::usage("--label", format!("it has {} bytes", args.label.len()))
                .way_out("give at most 64 bytes"));
        }
        Ok(())
    }

    /// Not even by force: what the volume needs, or is made of, does not give its place to it.
    pub(crate) fn refuse_replacing_parts(&self, place: &Place, sources: &[KeySource]) -> Result<(), Failure> {
        let refused = |what: &str| {
            Err(Failure::usage(self.args.image.display(), format!("it is {what}")).way_out("name another image"))
        };
        let id = |path: &Path| std::fs::metadata(path).ok().map(|metadata| FileId::of(&metadata));
        let image = place.occupied_id();
        if image.is_some() && self.args.key.lower.iter().any(|lower| id(&lower.path) == image) {
            return refused("an image that it is to lie over");
        }
        let keys = sources.iter().flat_map(|source| &source.files);
        if image.is_some() && keys.into_iter().any(|key| id(key) == image) {
            return refused("the file of a key that opens it");
        }
        let anchor = sources.iter().find_map(|source| source.anchor.as_ref());
        if let Some(AnchorSpec::File(anchor)) = anchor
            && place.is_path(anchor)
        {
            return refused("the place of its own anchor");
        }
        if image.is_some() && self.args.from_tar.as_deref().is_some_and(|archive| id(archive) == image) {
            return refused("the archive to be sealed");
        }
        let layout = self.args.from_oci.as_deref().map(OciName::parse).map(|name| name.layout);
        match self.args.from.as_ref().or(layout.as_ref()) {
            Some(from) if place.holds_other_data() && place.is_below(from) => {
                refused("a file of the directory to be sealed")
            }
            _ => Ok(()),
        }
    }

    /// Every source that was given becomes a slot.
    pub(crate) fn key_sources(&self) -> Result<Vec<KeySource>, Failure> {
        let key = &self.args.key;
        if let Some(file) = key.key_file.as_ref().filter(|file| key.passphrase_file.as_ref() == Some(file)) {
            return Err(Failure::usage(file.display(), "it is given as key file and as passphrase file")
                .way_out("give two different files"));
        }
        let none = KeyArgs { key_file: None, passphrase_file: None, platform: None, ..key.clone() };
        let mut several: Vec<KeyArgs> = [
            key.key_file.clone().map(|file| KeyArgs { key_file: Some(file), ..none.clone() }),
            key.passphrase_file.clone().map(|file| KeyArgs { passphrase_file: Some(file), ..none.clone() }),
            key.platform.clone().map(|name| KeyArgs { platform: Some(name), ..none.clone() }),
        ]
        .into_iter()
        .flatten()
        .collect();
        if several.is_empty() {
            several.push(none);
        }
        let sources: Result<Vec<KeySource>, Failure> =
            several.iter().map(|args| args.key_source(&self.args.image)).collect();
        let sources = sources?;
        sources.iter().flat_map(|source| &source.warnings).for_each(|warning| self.warn(warning));
        if self.args.anchor_policy.is_some() && sources.iter().all(|source| source.anchor.is_none()) {
            return Err(Failure::usage("--anchor-policy", "the volume gets no anchor").way_out("give --anchor too"));
        }
        Ok(sources)
    }

    pub(crate) fn warn(&self, line: &str) {
        if !self.quiet {
            self.tool.warn(line);
        }
    }

    pub(crate) fn survey(&self, origin: &Origin<'_>) -> Result<Survey, Failure> {
        populate::survey(origin, &self.stop).map_err(|error| self.not_filled(error, &Content::unknown()))
    }

    /// Locks the images that the volume is to lie over, and says what binds it to those that nothing else pins.
    fn lowers(&self, sources: &[KeySource]) -> Result<Vec<(LowerImage, NewLower)>, Failure> {
        let key = &self.args.key;
        let mut lowers = Vec::new();
        for spec in &key.lower {
            let image = LowerImage::open(spec.clone(), key, sources, TOOL)?;
            let new = image.as_new()?;
            if let Some(warning) = image.taken_as_it_stands(&new) {
                self.warn(&warning);
            }
            lowers.push((image, new));
        }
        Ok(lowers)
    }

    fn size_bytes(&self, place: &Place, survey: Option<&Survey>) -> Result<u64, Failure> {
        let image = self.args.image.display();
        let size_bytes = match (self.args.size, survey, place.len_bytes()) {
            (Some(size), _, len_bytes) if place.is_device() && size > len_bytes => {
                let (has, asked) = (size::render(len_bytes), size::render(size));
                return Err(Failure::new(image, format!("the device has {has}, --size asks for {asked}"))
                    .way_out("give a smaller --size, or none for all of the device"));
            }
            (Some(size), ..) => size,
            (None, _, len_bytes) if place.is_device() => len_bytes,
            (None, Some(survey), _) => survey.size_bytes(),
            (None, None, 0) => return Err(Failure::usage(image, "no size is given").way_out("give --size SIZE")),
            (None, None, len_bytes) => len_bytes,
        };
        if size_bytes < LEAST_BYTES {
            return Err(Failure::new(image, format!("a volume of {} is too small", size::render(size_bytes)))
                .way_out("give --size 4M or more"));
        }
        match survey {
            Some(survey) if survey.least_bytes() > size_bytes => {
                Err(self.does_not_fit(&Content { survey: Some(*survey), size_bytes, ..Content::unknown() }))
            }
            _ => Ok(size_bytes),
        }
    }

    fn make(
        &self,
        place: Place,
        mut origin: Option<Origin<'_>>,
        content: &Content,
        sources: &[KeySource],
    ) -> Result<Made, Failure> {
        let unplaced = place.begin(content.size_bytes)?;
        let unplaced_id = unplaced.id()?;
        origin.iter_mut().for_each(|origin| origin.exclude(unplaced_id));
        let new = self.new_volume(sources, content)?;
        let mut anchor = NewAnchor::make(sources.first().and_then(|source| source.anchor.as_ref()), &new.key)?;
        anchor.warnings.iter().for_each(|warning| TOOL.warn(warning));
        let of_host = |error: BackendError| self.not_made(error.into(), content);
        let unfinished = Arc::new(
            HeaderLast::new(unplaced.backend(self.args.key.io.unwrap_or_default(), self.tool)?).map_err(of_host)?,
        );
        let made = self.make_volume(unfinished.clone(), content, sources, origin.as_ref(), new, anchor.get())?;
        if self.stop.load(Ordering::Relaxed) {
            return Err(self.not_filled(PopulateError::Interrupted, content));
        }
        unfinished.finish().map_err(of_host)?;
        unplaced.place()?;
        anchor.keep();
        Ok(made)
    }

    fn new_volume(&self, sources: &[KeySource], content: &Content) -> Result<NewVolume, Failure> {
        let volume_id = match sources.iter().find_map(|source| source.volume_id) {
            Some(id) => id,
            None => self.random_id(content)?,
        };
        let env = self.env();
        let (key, slots) = slots(sources, &volume_id, &env)?;
        Ok(NewVolume { volume_id, key, slots })
    }

    /// A random UUID (RFC 9562, version 4).
    pub(crate) fn random_id(&self, content: &Content) -> Result<VolumeId, Failure> {
        let mut id = [0; 16];
        sealing::Rng::fill(&OsRng, &mut id).map_err(|_| self.not_made(Error::Rng, content))?;
        (id[6], id[8]) = (id[6] & 0x0f | 0x40, id[8] & 0x3f | 0x80);
        Ok(VolumeId(id))
    }

    fn make_volume(
        &self,
        backend: Arc<dyn Backend>,
        content: &Content,
        sources: &[KeySource],
        origin: Option<&Origin<'_>>,
        new: NewVolume,
        anchor: Option<Arc<dyn Anchor>>,
    ) -> Result<Made, Failure> {
        let failed = |error: Error| self.not_made(error, content);
        let NewVolume { volume_id, key, slots } = new;
        let (env, policy) = (self.env(), self.anchor_policy(sources));
        let options = FormatOptions {
            size_bytes: content.size_bytes,
            volume_id: volume_id.0,
            label: self.args.label.clone(),
            slots,
            anchor: anchor.clone().map(|anchor| (anchor, policy)),
            root: Owner { mode: 0o755, uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() },
        };
        let lowers: Vec<NewLower> = content.lowers.iter().map(|(_, new)| new.clone()).collect();
        if lowers.is_empty() {
            Volume::format(backend.clone(), &key, &options, &env).map_err(failed)?;
        } else {
            Volume::format_over(backend.clone(), &key, &options, &lowers, &env).map_err(failed)?;
        }
        let counts = match origin {
            Some(origin) => {
                let options = OpenOptions { anchor, volume_id: Some(volume_id.0), ..OpenOptions::default() };
                let volume = Volume::open(backend, &key, &options, &env).map_err(failed)?;
                let counts = self.fill(&volume, origin, content)?;
                volume.close().map_err(failed)?;
                Some(counts)
            }
            None => None,
        };
        Ok(Made {
            size_bytes: content.size_bytes,
            volume_id,
            kinds: sources.iter().map(KeySource::label).collect(),
            anchor: sources.iter().find_map(|source| source.anchor.as_ref()).map(AnchorSpec::to_string),
            counts,
            lowers: content.lowers.iter().map(|(image, new)| image.bound(new)).collect(),
        })
    }

    pub(crate) fn env(&self) -> Env {
        self.args.key.crypto.unwrap_or_default().host_env()
    }

    fn anchor_policy(&self, sources: &[KeySource]) -> AnchorPolicy {
        match (self.args.anchor_policy, sources.iter().find_map(|source| source.anchor.as_ref())) {
            (Some(Policy::Checkpoint), _) => AnchorPolicy::Checkpoint,
            #[cfg(feature = "tpm")]
            (None, Some(AnchorSpec::Tpm(_))) => AnchorPolicy::Checkpoint,
            #[cfg(feature = "tpm")]
            (Some(Policy::Strict), Some(AnchorSpec::Tpm(_))) => {
                self.warn(
                    "each commit writes the TPM's memory twice; it is made for some 100,000 writes, a day at one commit a second",
                );
                AnchorPolicy::Strict
            }
            (Some(Policy::Strict) | None, _) => AnchorPolicy::Strict,
        }
    }

    fn fill(&self, volume: &Volume, origin: &Origin<'_>, content: &Content) -> Result<Counts, Failure> {
        let mut progress =
            (!self.quiet).then(|| Progress::start("sealing", Unit::Bytes, content.survey.map(|it| it.data_bytes)));
        let files_expected = content.survey.map_or(0, |survey| survey.files);
        populate::populate(volume, origin, &self.stop, &mut |step| match step {
            Step::Progress(counts) => {
                if let Some(progress) = &mut progress {
                    progress.set_label(format!("sealing file {} of {files_expected}", counts.files));
                    progress.set(counts.bytes);
                }
            }
            Step::Warning(line) => self.warn(&line),
        })
        .map_err(|error| self.not_filled(error, content))
    }

    pub(crate) fn not_filled(&self, error: PopulateError, content: &Content) -> Failure {
        match error {
            PopulateError::Interrupted => {
                let left =
                    if is_device(&self.args.image) { "the device holds no volume now" } else { "nothing was made" };
                Failure::new(self.args.image.display(), format!("interrupted; {left}")).way_out("run it again")
            }
            PopulateError::Source(what) if self.args.from.as_deref() == Some(&*what.path) => Failure::new(
                escaped(what.path.as_os_str().as_encoded_bytes()),
                format!("it cannot be read: {}", what.errno.desc()),
            )
            .way_out("name a directory that can be read"),
            PopulateError::Source(what) => Failure::new(
                escaped(what.path.as_os_str().as_encoded_bytes()),
                format!("it cannot be read: {}", what.errno.desc()),
            )
            .way_out(match self.args.from {
                Some(_) => "mend that, or give --skip-unreadable to leave it out",
                None => "check the disk below it",
            }),
            PopulateError::Original { path, error } => Failure::volume(&path, &error),
            PopulateError::NoSpace => self.not_made(Posix::NoSpace.into(), content),
            PopulateError::Volume { path, error } => match host_errno(&error) {
                Some(_) => self.not_made(error, content),
                None => {
                    Failure::new(escaped(path.as_os_str().as_encoded_bytes()), format!("it cannot be stored: {error}"))
                        .way_out("leave it out of what is to be sealed")
                }
            },
        }
    }

    pub(crate) fn not_made(&self, error: Error, content: &Content) -> Failure {
        let image = &self.args.image;
        match host_errno(&error) {
            Some(errno) => host_refused(image, &std::io::Error::from_raw_os_error(errno)),
            None if error == Error::Posix(Posix::NoSpace) && content.survey.is_some() => self.does_not_fit(content),
            None => Failure::volume(image, &error),
        }
    }

    fn does_not_fit(&self, content: &Content) -> Failure {
        let size_bytes = content.size_bytes;
        let named = [&self.args.from, &self.args.from_tar, &self.args.from_oci].into_iter().flatten().next();
        let from = named.map_or(Path::new("the content"), PathBuf::as_path);
        // What did not fit although the estimate said so needs more than the estimate.
        let estimate = content.survey.as_ref().map_or(0, Survey::size_bytes);
        let needed = if estimate > size_bytes { estimate } else { size_bytes.saturating_add(size_bytes / 2) };
        let needed_mib = needed.div_ceil(1 << 20);
        let way_out = if is_device(&self.args.image) {
            format!("use a device of at least {needed_mib} MiB")
        } else {
            format!("give --size {needed_mib}M, or leave --size out")
        };
        Failure::new(from.display(), format!("it does not fit into a volume of {}", size::render(size_bytes)))
            .way_out(way_out)
    }

    fn report(&self, made: &Made) -> Result<(), Failure> {
        let mut output = Output::stdout();
        let kinds: Vec<&str> = made.kinds.iter().map(String::as_str).collect();
        if self.args.json {
            output.json(&self.as_json(made, &kinds))?;
        } else if !self.quiet {
            let slots = if kinds.len() == 1 { "key slot" } else { "key slots" };
            let size = size::render(made.size_bytes);
            let image = escaped(self.args.image.as_os_str().as_encoded_bytes());
            output.line(format!("{image}: {size}, volume {}, {slots}: {}", made.volume_id, kinds.join(", ")))?;
            if let Some(counts) = &made.counts {
                output.line(format!("{image}: {}", counts_text(counts)))?;
            }
            for (lower, digest) in &made.lowers {
                output.line(format!("{image}: over {lower}, root digest {digest}"))?;
            }
        }
        if kinds.len() == 1 && !self.quiet {
            TOOL.warn("this volume has a single key; whoever loses it loses the data: give --key-file and --passphrase-file for two, or add recovery shares with sealing slots add");
        }
        Ok(())
    }

    fn as_json(&self, made: &Made, kinds: &[&str]) -> serde_json::Value {
        let counts = made.counts.as_ref().map(counts_json);
        json!({
            "image": escaped(self.args.image.as_os_str().as_encoded_bytes()),
            "volume_id": made.volume_id.to_string(),
            "label": self.args.label,
            "size_bytes": made.size_bytes,
            "key_slots": kinds,
            "anchor": made.anchor,
            "content": counts,
            "lowers": made.lowers.iter().map(|(image, digest)| json!({"image": image, "root_digest": digest})).collect::<Vec<_>>(),
        })
    }
}

/// A fresh volume key, and a slot for each of its owners.
pub(crate) fn slots(
    sources: &[KeySource],
    volume_id: &VolumeId,
    env: &Env,
) -> Result<(VolumeKey, Vec<KeySlot>), Failure> {
    let key = VolumeKey::generate(&*env.rng).map_err(|error| Failure::new("random generator", error))?;
    let slots: Result<Vec<KeySlot>, Failure> =
        sources.iter().map(|source| source.slot_for(&key, volume_id, &Argon2Cost::DEFAULT)).collect();
    Ok((key, slots?))
}

pub(crate) fn counts_json(counts: &Counts) -> serde_json::Value {
    json!({
        "files": counts.files,
        "directories": counts.directories,
        "symlinks": counts.symlinks,
        "specials": counts.specials,
        "hard_links": counts.hard_links,
        "bytes": counts.bytes,
        "xattrs": counts.xattrs,
        "skipped": counts.skipped,
        "xattrs_skipped": counts.xattrs_skipped,
    })
}

pub(crate) fn counts_text(counts: &Counts) -> String {
    let plural = |count: u64, one: &str, many: &str| match count {
        0 => None,
        1 => Some(format!("1 {one}")),
        _ => Some(format!("{count} {many}")),
    };
    let parts = [
        plural(counts.files, "file", "files"),
        plural(counts.directories, "directory", "directories"),
        plural(counts.symlinks, "symlink", "symlinks"),
        plural(counts.specials, "special file", "special files"),
        plural(counts.hard_links, "hard link", "hard links"),
        plural(counts.skipped, "entry left out", "entries left out"),
        plural(counts.xattrs_skipped, "attribute left out", "attributes left out"),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().chain([size::render(counts.bytes)]).collect();
    parts.join(", ")
}

/// The host's error number, if it was the host that failed.
fn host_errno(error: &Error) -> Option<i32> {
    match error {
        Error::Backend(failure) if failure.errno != 0 => Some(failure.errno),
        _ => None,
    }
}
