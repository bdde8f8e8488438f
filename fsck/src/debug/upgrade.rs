//! `debug.sefs upgrade`: a volume is put over other versions of its images.
//!
//! *Security*: an image that the volume is put over is what it is bound to from then on. One without a key is taken as it stands
//! unless a root digest is named for it, and that is said.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use sefs::check::{CheckOptions, Finding};
use sefs::layers::{Conflict, Upgraded, upgrade};
use sefs::vfs::{NewLower, OpenOptions};
use serde_json::{Map, Value, json};

use super::TOOL;
use crate::image::ImageUse;
use crate::image_spec::ImageSpec;
use crate::interrupt;
use crate::key_source::KeyArgs;
use crate::lowers::LowerImage;
use crate::names::escaped;
use crate::opening::{Entry, Located, Unlocked};
use crate::progress::StageProgress;
use crate::report::{Failure, Output};
use crate::showing::put_name;
use crate::source::FileId;

/// What the volume is to lie over.
#[derive(clap::Args, Debug)]
pub(crate) struct UpgradeArgs {
    /// An image that the volume is to lie over; once for each, the topmost first
    ///
    /// It opens with the volume's key unless it has its own as mount options: b.sefs,key-file=FILE. A public one is taken as it
    /// stands unless root-digest=HEX says which it has to be.
    #[arg(long, value_name = "IMAGE[,KEY]", required = true, value_parser = ImageSpec::value_parser())]
    to: Vec<ImageSpec>,
    /// An image that the volume lies over now; once for each, the topmost first [default: where they were when it was made]
    #[arg(long, value_name = "OLD[,KEY]", value_parser = ImageSpec::value_parser())]
    lower: Vec<ImageSpec>,
    /// Print nothing but conflicts and errors
    #[arg(long, short)]
    quiet: bool,
}

/// What a shell calls a command that an interrupt ended.
const INTERRUPTED: i32 = 130;
/// Of findings that keep it from being done, so many are told: fsck.sefs tells all.
const FINDINGS_TOLD: usize = 20;

impl UpgradeArgs {
    /// `false`: done, with conflicts. `answered` is set where the output says itself what failed.
    pub(super) fn run(
        &self,
        path: &Path,
        key: &KeyArgs,
        json: bool,
        (out, answered): (&mut Output, &mut bool),
    ) -> Result<bool, Failure> {
        // Wherever it is cut off, it has happened or it has not: there is nothing to put away.
        interrupt::exit_on_signal(INTERRUPTED);
        let key = KeyArgs { lower: [&key.lower[..], &self.lower].concat(), ..key.clone() };
        let unlocked = open(path, &key)?;
        self.refuse_itself(&unlocked.located)?;
        let options = options(&unlocked)?;
        let new = self.new_images(&unlocked, &key)?;
        let table: Vec<NewLower> = new.iter().map(|(_, new)| new.clone()).collect();
        let mut progress = StageProgress::new("upgrading", self.quiet);
        let backend = unlocked.located.backend.clone();
        let mut on = |stage, done, total| progress.set(stage, done, total);
        let upgraded = upgrade(backend, &unlocked.key, &options, &table, &unlocked.env(), &mut on);
        drop(progress);
        match upgraded.map_err(|error| unlocked.failed(&error))? {
            Upgraded::Done(conflicts) => {
                self.tell(path, &conflicts, &new, json, out)?;
                Ok(conflicts.is_empty())
            }
            Upgraded::Refused(findings) => {
                let failure = refused(path, &findings);
                if json {
                    *answered = true;
                    out.json(&refused_json(&failure, &findings))?;
                } else {
                    let image = escaped(path.as_os_str().as_bytes());
                    let told = findings.iter().take(FINDINGS_TOLD);
                    told.for_each(|finding| TOOL.fail(&Failure::new(&image, finding_text(finding))));
                }
                Err(failure)
            }
        }
    }

    fn refuse_itself(&self, volume: &Located) -> Result<(), Failure> {
        let id = |metadata: std::io::Result<std::fs::Metadata>| metadata.ok().map(|metadata| FileId::of(&metadata));
        let itself = id(volume.image.file().metadata());
        match self.to.iter().find(|spec| itself.is_some() && id(std::fs::metadata(&spec.path)) == itself) {
            Some(spec) => Err(Failure::usage(spec.path.display(), "it is the volume itself")
                .way_out("name the image that the volume is to lie over")),
            None => Ok(()),
        }
    }

    /// Locks the new images, and says what binds the volume to those that nothing else pins.
    fn new_images(&self, unlocked: &Unlocked, key: &KeyArgs) -> Result<Vec<(LowerImage, NewLower)>, Failure> {
        let mut images = Vec::new();
        for spec in &self.to {
            let image = LowerImage::open(spec.clone(), key, std::slice::from_ref(&unlocked.source), TOOL)?;
            let new = image.as_new()?;
            if let Some(warning) = image.taken_as_it_stands(&new) {
                TOOL.warn(&warning);
            }
            images.push((image, new));
        }
        Ok(images)
    }

    fn tell(
        &self,
        path: &Path,
        conflicts: &[Conflict],
        new: &[(LowerImage, NewLower)],
        json: bool,
        out: &mut Output,
    ) -> Result<(), Failure> {
        let bound: Vec<(String, String)> = new.iter().map(|(image, new)| image.bound(new)).collect();
        if json {
            return out.json(&json!({
                "image": escaped(path.as_os_str().as_bytes()),
                "conflicts": conflicts.iter().map(conflict_json).collect::<Vec<_>>(),
                "count": conflicts.len(),
                "lowers": bound.iter().map(|(image, digest)| json!({"image": image, "root_digest": digest})).collect::<Vec<_>>(),
            }));
        }
        for Conflict { path, why } in conflicts {
            out.line(format_args!("{} /{}: {why}", why.code(), escaped(path)))?;
        }
        if self.quiet {
            return Ok(());
        }
        let image = escaped(path.as_os_str().as_bytes());
        for (lower, digest) in &bound {
            out.line(format_args!("{image}: over {lower}, root digest {digest}"))?;
        }
        out.line(match conflicts.len() {
            0 => format!("{image}: upgraded, no conflicts"),
            1 => format!("{image}: upgraded, 1 conflict"),
            count => format!("{image}: upgraded, {count} conflicts"),
        })
    }
}

/// Locks the volume for itself and finds its key.
fn open(path: &Path, key: &KeyArgs) -> Result<Unlocked, Failure> {
    let located = Located::open_as_it_is(path, ImageUse::ReadWrite)?;
    if located.is_packed() {
        return Err(Failure::usage(path.display(), "it is a packed image, and lies over no other")
            .way_out("name the volume that lies over images"));
    }
    match located.enter(key, TOOL)? {
        Entry::Unlocked(unlocked) => Ok(*unlocked),
        // Only a packed image is public.
        Entry::Pinned(_) => Err(Failure::usage(path.display(), "it is public")),
    }
}

/// How the volume is opened, with the images that it lies over now.
fn options(unlocked: &Unlocked) -> Result<CheckOptions, Failure> {
    let mount = unlocked.options()?;
    // Says of each image what is wrong with it, before anything is written.
    let volume = unlocked.volume_with(&OpenOptions { read_only: true, ..mount.clone() })?;
    if volume.lowers().is_empty() {
        return Err(Failure::usage(unlocked.located.path.display(), "it lies over no image")
            .way_out("mkfs.sefs --lower makes a volume over images"));
    }
    drop(volume);
    Ok(CheckOptions {
        anchor: mount.anchor,
        abandon_anchor: mount.abandon_anchor,
        volume_id: mount.volume_id,
        lowers: unlocked.lowers()?,
        ..CheckOptions::default()
    })
}

fn refused(path: &Path, findings: &[Finding]) -> Failure {
    let image = escaped(path.as_os_str().as_bytes());
    let reason = match findings.len() {
        0 => "it does not fit the new images; it still lies over the old ones".into(),
        1 => "a finding keeps it from being upgraded; it still lies over the old images".into(),
        count => format!("{count} findings keep it from being upgraded; it still lies over the old images"),
    };
    Failure::new(&image, reason)
        .way_out(format_args!("fsck.sefs {image} shows all that is wrong with it, and what mends that"))
}

fn refused_json(failure: &Failure, findings: &[Finding]) -> Value {
    let finding = |finding: &Finding| json!({"finding": finding.code(), "text": finding.to_string()});
    let mut value = failure.json();
    value["findings"] = findings.iter().take(FINDINGS_TOLD).map(finding).collect();
    value
}

fn finding_text(finding: &Finding) -> String {
    format!("{finding} [{}]", finding.code())
}

fn conflict_json(Conflict { path, why }: &Conflict) -> Value {
    let mut fields = Map::new();
    fields.insert("kind".into(), why.code().into());
    put_name(&mut fields, "path", &[b"/", &path[..]].concat());
    fields.insert("text".into(), why.to_string().into());
    fields.into()
}
