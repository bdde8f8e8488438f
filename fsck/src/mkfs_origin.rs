//! What `mkfs.sefs` fills a volume or an image from.

use crate::archive::oci::OciName;
use crate::archive::{Archive, Watch};
use crate::mkfs::Mkfs;
use crate::origin::Origin;
use crate::place::Place;
use crate::progress::{Progress, Unit};
use crate::report::Failure;
use crate::source::WalkOptions;

impl Mkfs {
    /// What the volume is to be filled from. Archives are read now.
    pub(crate) fn origin(&self, place: &Place) -> Result<Option<Origin<'static>>, Failure> {
        let args = &self.args;
        if let Some(root) = &args.from {
            let options = self.walk_options(place);
            return Ok(Some(Origin::Directory { root: root.clone(), options }));
        }
        let archive = match (&args.from_tar, &args.from_oci) {
            (Some(file), _) => {
                let len_bytes = std::fs::metadata(file).ok().map(|metadata| metadata.len());
                self.read_archive(len_bytes, |watch| Archive::of_tar(file, &place.spool_directory(), watch))
            }
            (None, Some(name)) => {
                let name = OciName::parse(name);
                let len_bytes = Archive::oci_len_bytes(&name)?;
                self.read_archive(Some(len_bytes), |watch| Archive::of_oci(&name, &place.spool_directory(), watch))
            }
            (None, None) => return Ok(None),
        };
        archive.map(|archive| Some(Origin::Archive(archive)))
    }

    fn read_archive(
        &self,
        len_bytes: Option<u64>,
        read: impl FnOnce(&mut Watch<'_>) -> Result<Archive, Failure>,
    ) -> Result<Archive, Failure> {
        let mut progress = (!self.quiet).then(|| Progress::start("reading", Unit::Bytes, len_bytes));
        let mut warned = 0_u64;
        let archive = read(&mut Watch {
            stop: &self.stop,
            read: &mut |len_bytes| progress.iter_mut().for_each(|progress| progress.add(len_bytes)),
            warn: &mut |line| {
                warned += 1;
                if warned <= WARNINGS_MAX {
                    self.warn(&line);
                }
            },
        });
        if warned > WARNINGS_MAX {
            self.warn(&format!("{} more were left out", warned - WARNINGS_MAX));
        }
        archive
    }

    fn walk_options(&self, place: &Place) -> WalkOptions {
        WalkOptions {
            one_file_system: self.args.one_file_system,
            skip_unreadable: self.args.skip_unreadable,
            exclude: place.occupied_id().into_iter().collect(),
            contents: false,
        }
    }
}

/// Lines about what archives have and images cannot.
const WARNINGS_MAX: u64 = 20;
