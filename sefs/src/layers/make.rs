//! Making a volume over images.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::backend::Backend;
use crate::check::{Amend, CheckOptions};
use crate::env::Env;
use crate::error::{Corrupt, Invalid, Result};
use crate::format::{DirEntryRecord, FileKind, Inode, Key, Kind, LOWER_NOTE_MAX, LowerRecord, MAX_LOWERS};
use crate::keys::VolumeKey;
use crate::repair::{Fitted, fit};
use crate::store::{Lower, Lowers, PACKED_IDS_END, Store, record_error};
use crate::tree;
use crate::vfs::{FormatOptions, NewLower, OpenOptions, Volume, store_format, store_options};

/// Records of an image that are looked at with one scan.
const SCAN: usize = 1024;

impl Volume {
    /// Makes a volume over packed images, the topmost first: it has all that they have, and what is changed is stored in it.
    /// Directories of several images are merged; of everything else the topmost image that has a path has it.
    ///
    /// It is bound to the images by their root digests. `options.root` is not asked: the images have a root directory.
    ///
    /// Errors: `Invalid` for too few or too many images, for too long a note, or if a file of a lower image has a further name that
    /// would lead to another file of an upper one.
    pub fn format_over(
        backend: Arc<dyn Backend>,
        key: &VolumeKey,
        options: &FormatOptions,
        lowers: &[NewLower],
        env: &Env,
    ) -> Result<()> {
        let table = survey(lowers, env)?;
        Store::format(&*backend, key, &store_format(options, true), env)?;
        let anchor = options.anchor.as_ref().map(|(anchor, _)| anchor.clone());
        let open = store_options(&OpenOptions { anchor: anchor.clone(), ..OpenOptions::default() });
        let mut store = Store::open(backend.clone(), key, &open, env)?;
        store.put_lowers(table)?;
        for lower in lowers {
            store.attach_lower(&lower.image, env)?;
        }
        store.count_lower_inodes()?;
        if lowers.len() > 1 {
            refuse_crossed_links(store.below())?;
        }
        store.close()?;
        drop(store);
        if lowers.len() > 1 {
            let images = lowers.iter().map(|lower| lower.image.clone()).collect();
            let options = CheckOptions { anchor, lowers: images, ..CheckOptions::default() };
            match fit(backend, key, &options, Amend::default(), env, &mut |_, _, _| {})? {
                Fitted::Done => {}
                Fitted::Refused(_) => return Err(Corrupt::Checkpoint("the images do not fit together").into()),
            }
        }
        Ok(())
    }
}

/// What the volume is bound to.
pub(super) fn survey(lowers: &[NewLower], env: &Env) -> Result<Vec<LowerRecord>> {
    if lowers.is_empty() || lowers.len() > MAX_LOWERS {
        return Err(Invalid::Option("a volume lies over 1 to 16 images").into());
    }
    if lowers.iter().any(|lower| lower.note.len() > LOWER_NOTE_MAX) {
        return Err(Invalid::Option("a note on an image has at most 4,096 bytes").into());
    }
    let survey = |lower: &NewLower| Store::survey_lower(&lower.image, lower.root_digest, lower.note.clone(), env);
    lowers.iter().map(survey).collect()
}

/// Images by themselves, as they lie over each other.
pub(super) fn stack(table: &[LowerRecord], images: &[Lower], cache_bytes: usize, env: &Env) -> Result<Lowers> {
    let mut stack = Lowers::new(true, table.to_vec())?;
    images.iter().try_for_each(|image| stack.attach(image, cache_bytes / images.len().max(1), env))?;
    stack.images()?;
    Ok(stack)
}

/// The numbers of inodes are made of their first paths. So a second name of a lower image's file leads to the file that an upper
/// image has under the first one. What a user expects there is the lower file, which has no number to be found by.
pub(super) fn refuse_crossed_links(lowers: &Lowers) -> Result<()> {
    let images = lowers.images()?;
    let mut above: BTreeSet<Key> = BTreeSet::new();
    for (at, image) in images.iter().enumerate() {
        let mut from = Some(Key::new(1, Kind::Inode, 0));
        while let Some(key) = from {
            let end = Key::new(PACKED_IDS_END, Kind::Inode, 0);
            let records = tree::scan(image, image.files_root(), key, end, SCAN)?;
            from = records.last().filter(|_| records.len() == SCAN).and_then(|(key, _)| key.successor());
            for (key, bytes) in records.into_iter().filter(|(key, _)| key.kind == Kind::DirEntry) {
                if lowers.is_hidden(at, key)? || !above.insert(key) {
                    continue;
                }
                let entry = DirEntryRecord::decode(&bytes).map_err(|why| record_error(key, why))?;
                if entry.kind != FileKind::Directory && lowers.is_hidden(at, Key::new(entry.ino.0, Kind::Inode, 0))? {
                    return Err(Invalid::Option(
                        "a file of one image has a hard link whose other name an image above it has for another file; pack the \
                         two into one image",
                    )
                    .into());
                }
            }
        }
    }
    Ok(())
}

/// The inode with a number, as the images have it.
pub(super) fn inode_of(lowers: &Lowers, number: u64) -> Result<Option<Inode>> {
    let key = Key::new(number, Kind::Inode, 0);
    let Some(bytes) = lowers.get(key)? else { return Ok(None) };
    Inode::decode(&bytes).map(Some).map_err(|why| record_error(key, why))
}
