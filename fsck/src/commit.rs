//! `debug.sefs commit`: a packed image of everything that a volume holds.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sefs::vfs::Volume;

use crate::interrupt;
use crate::key_source::KeyArgs;
use crate::mkfs::{Mkfs, MkfsArgs};
use crate::opening::Located;
use crate::origin::Origin;
use crate::report::{Failure, Tool};
use crate::source::FileId;

/// What the new image is to be. Its key is given as for mkfs.sefs, behind the command's name.
#[derive(clap::Args, Debug)]
#[command(mut_arg("volume_id", |arg| arg.help("Give the new image this id instead of a random one")), mut_arg("anchor", |arg| arg.hide(true)), mut_arg("abandon_anchor", |arg| arg.hide(true)), mut_arg("root_digest", |arg| arg.hide(true)), mut_arg("share_file", |arg| arg.hide(true)), mut_arg("lower", |arg| arg.hide(true)))]
pub(crate) struct CommitArgs {
    /// The image to write
    #[arg(long, short = 'O', value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    output: PathBuf,
    /// No encryption and no key; only the root digest tells the image from another
    #[arg(long)]
    public: bool,
    /// The same content and key give the same bytes; times are not later than SOURCE_DATE_EPOCH, or 0
    #[arg(long)]
    reproducible: bool,
    /// Store equal blocks each; otherwise the host can tell which blocks of an encrypted image are equal
    #[arg(long)]
    no_dedup: bool,
    /// A name for people, at most 64 bytes [default: the volume's]
    #[arg(long, short = 'L')]
    label: Option<String>,
    /// Replace whatever the image to write holds
    #[arg(long)]
    force: bool,
    /// Print nothing but errors
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    key: KeyArgs,
    /// The same as mount options: key-file=FILE,passphrase-file=FILE,…
    #[arg(short = 'o', value_name = "OPTION,…", help_heading = "Key and trust")]
    options: Vec<String>,
}

impl CommitArgs {
    /// Writes the image.
    pub(crate) fn run(&self, volume: &Volume, located: &Located, json: bool, tool: Tool) -> Result<(), Failure> {
        let id = |metadata: std::io::Result<std::fs::Metadata>| metadata.ok().map(|metadata| FileId::of(&metadata));
        let output = id(std::fs::metadata(&self.output));
        if output.is_some() && output == id(located.image.file().metadata()) {
            return Err(Failure::usage(self.output.display(), "it is the image that is read").way_out("name another"));
        }
        if !self.key.lower.is_empty() {
            return Err(Failure::usage("--lower", "the new image lies over nothing: what lower images hold is in it")
                .way_out("give it before commit, where it says what the volume lies over"));
        }
        let stop: Arc<AtomicBool> = interrupt::watch();
        let mut args = MkfsArgs::packed(self.output.clone(), self.key.clone(), self.options.clone());
        args.label = self.label.clone().unwrap_or_else(|| volume.header().label.clone());
        (args.force, args.json, args.quiet) = (self.force, json, self.quiet);
        (args.public, args.reproducible, args.no_dedup) = (self.public, self.reproducible, self.no_dedup);
        Mkfs::new(args, tool, stop)?.pack(Origin::Volume { image: &located.path, volume })
    }
}
