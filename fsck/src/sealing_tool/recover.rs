//! The way back: recovery shares open a volume whose other keys are lost, and give it a new one in the same step.

use std::path::{Path, PathBuf};

use clap::Args;
use sealing::SlotKind;
use serde_json::json;

use super::slots::{NOT_REVOKED, NewSlot, demand_slot};
use super::{Sealing, TOOL};
use crate::image::ImageUse;
use crate::key_source::{KeyArgs, read_share};
use crate::opening::Located;
use crate::report::Failure;
use crate::showing::slot_label;

#[derive(Args, Debug)]
pub(super) struct RecoverArgs {
    /// The image
    image: PathBuf,
    #[command(flatten)]
    key: KeyArgs,
    /// Put the new slot in the place of this one, as slots list shows it, whose key is lost [default: beside the others]
    #[arg(long, value_name = "N")]
    slot: Option<usize>,
    #[command(flatten)]
    new: NewSlot,
}

impl Sealing {
    pub(super) fn recover(&mut self, args: &RecoverArgs) -> Result<bool, Failure> {
        if args.key.share_file.is_empty() {
            return Err(Failure::usage("--share-file", "a volume is recovered with its shares")
                .way_out("give --share-file FILE once for each; with another key, sealing slots add does it"));
        }
        self.check_shares(&args.image, &args.key.share_file)?;
        let changed = self.changed(&args.image, &args.key, args.slot, Some(&args.new))?;
        let image = args.image.display().to_string();
        let mut next =
            vec![format!("prove that the new key opens it: sealing slots test {image} {}", args.new.as_key())];
        if args.slot.is_some() {
            TOOL.warn(NOT_REVOKED);
        } else {
            next.push(format!("take the slots of lost keys away: sealing slots list {image}, sealing slots remove"));
        }
        let shares_left = changed.iter().any(|slot| slot.kind == SlotKind::Shares.number());
        next.push(if shares_left {
            "the shares were together in one place: deal new ones (sealing slots rotate … --shares T/N), and destroy these"
                .to_string()
        } else {
            format!("{image} has no recovery shares any more: deal some with sealing slots add … --shares T/N")
        });
        next.push(format!(
            "if a lost key may be in another's hands: sealing rotate {image} …, which gives the volume another key"
        ));
        let labels: Vec<String> = changed.iter().map(slot_label).collect();
        self.say(json!({"image": args.image, "slots": labels, "next": next}), || {
            let steps: Vec<String> =
                next.iter().enumerate().map(|(index, step)| format!("  {}. {step}", index + 1)).collect();
            format!("{image}: recovered; key slots: {}\nnext:\n{}", labels.join(", "), steps.join("\n"))
        })
    }

    /// Says of shares that cannot open this volume what they are, instead of a wrong key.
    fn check_shares(&self, image: &Path, files: &[PathBuf]) -> Result<(), Failure> {
        let located = Located::open(image, ImageUse::ReadOnly)?;
        // What comes through a pipe can be read once only.
        for file in files.iter().filter(|file| *file != Path::new("-")) {
            let (share, _) = read_share(file)?;
            demand_slot(image, &located.header, share.set())?;
        }
        Ok(())
    }
}
