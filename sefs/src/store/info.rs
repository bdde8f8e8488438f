//! What a mount can tell of its volume.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;

use crate::format::{AnchorPolicy, Digest, FORMAT_VERSION, ImageType, LIVE_UNKNOWN, LowerRecord};
use crate::store::{Rotating, Store};
use crate::types::{BLOCK_SIZE_U64, EpochId, Generation};

/// Facts of an open volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeInfo {
    /// What the image is.
    pub image: ImageType,
    /// A packed image's root digest.
    pub root_digest: Option<Digest>,
    /// The root of the manifest that a packed image carries.
    pub manifest_root: Option<Digest>,
    /// The images that the volume lies over, the topmost first.
    pub lowers: Vec<LowerRecord>,
    /// The volume's id.
    pub volume_id: [u8; 16],
    /// A name for people.
    pub label: String,
    /// The format's version.
    pub format_version: u16,
    /// The volume's size in bytes.
    pub size_bytes: u64,
    /// The newest durable checkpoint.
    pub generation: Generation,
    /// Live epochs.
    pub epochs: u32,
    /// Epochs that the volume may keep in this mount.
    pub max_epochs: u32,
    /// What old epochs sealed is being sealed anew.
    pub reencrypting: Option<Reencrypting>,
    /// The volume key's generation, from 1.
    pub key_generation: u32,
    /// The volume key was changed, and not everything that the old one can open is gone.
    pub rotating: Option<Rotating>,
    /// When the anchor advances; `None` means that whole older images are not noticed.
    pub anchor: AnchorPolicy,
    /// Nothing can be written.
    pub read_only: bool,
    /// Log groups that were replayed when the volume was opened.
    pub replayed_groups: u64,
    /// Unflushed groups at the log's end that were not whole, and were dropped.
    pub dropped_groups: u64,
    /// What the owner should know.
    pub notices: Vec<Notice>,
}

/// One epoch of a volume: the keys of one mount that wrote, or of a part of a long one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochInfo {
    /// Its number.
    pub id: EpochId,
    /// Blocks that it sealed and that the newest checkpoint names; `None`: the count is lost, and found by re-encryption.
    pub live_blocks: Option<u64>,
    /// Its keys derive from a volume key that was changed since.
    pub old_key: bool,
}

/// How far re-encryption is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reencrypting {
    /// Epochs that it is going to end.
    pub epochs: u32,
    /// Blocks of these epochs that are left, as far as they are known.
    pub blocks_left: u64,
}

/// Something that is not an error and should not go unseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// No anchor: a complete older image, and groups that no later group confirmed, are not told from the newest state.
    Unanchored,
    /// No root digest was given for a packed image: another one that was made with the same key would not be noticed.
    Unpinned,
    /// The primary header did not authenticate; the replica was used.
    HeaderReplica,
    /// A checkpoint slot does not authenticate; the next checkpoints rewrite it.
    DamagedSlot {
        /// Which one.
        index: u8,
    },
    /// Groups at the log's end that were never confirmed as flushed were torn and are dropped.
    DroppedGroups {
        /// How many.
        count: u64,
    },
    /// The volume key was changed, and the rotation has not ended.
    KeyRotation {
        /// Blocks that are not sealed anew, as far as they are known.
        blocks_left: u64,
    },
}

impl core::fmt::Display for Notice {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Notice::Unanchored => f.write_str(
                "no anchor: a complete older copy of this volume, or a log cut short, would not be noticed at mount",
            ),
            Notice::Unpinned => f.write_str(
                "no root digest was given: another image that was made with the same key would not be noticed",
            ),
            Notice::HeaderReplica => f.write_str("the primary header is damaged; its replica was used"),
            Notice::DamagedSlot { index } => {
                write!(f, "checkpoint slot {index} does not authenticate; the next checkpoints rewrite it")
            }
            Notice::DroppedGroups { count } => {
                write!(f, "{count} log groups that were never confirmed as flushed were torn and are dropped")
            }
            Notice::KeyRotation { blocks_left } => write!(
                f,
                "key rotation in progress: old blocks are neither secret nor authentic against the old key's holder; \
                 {blocks_left} blocks are left"
            ),
        }
    }
}

impl Store {
    /// The epochs, rising; none of a packed image, which has no table of them.
    pub(crate) fn epochs(&self) -> Vec<EpochInfo> {
        if self.packed.is_some() {
            return Vec::new();
        }
        let old: BTreeSet<EpochId> = match self.is_rotating() {
            true => self.sealer.epochs_of_old_key().into_iter().map(|(id, _)| id).collect(),
            false => BTreeSet::new(),
        };
        let one = |(id, live)| EpochInfo {
            id,
            live_blocks: (live != LIVE_UNKNOWN).then_some(live),
            old_key: old.contains(&id),
        };
        self.sealer.epochs().into_iter().map(one).collect()
    }

    /// Facts of the volume.
    pub(crate) fn info(&self) -> VolumeInfo {
        let anchor = self.anchored.lock().as_ref().map_or(AnchorPolicy::None, |anchored| anchored.policy);
        let replayed = &self.replayed;
        let mut notices = Vec::new();
        match &self.packed {
            None if anchor == AnchorPolicy::None => notices.push(Notice::Unanchored),
            Some(facts) if !facts.pinned => notices.push(Notice::Unpinned),
            None | Some(_) => {}
        }
        if replayed.header_replica {
            notices.push(Notice::HeaderReplica);
        }
        notices.extend(replayed.damaged_slot.map(|index| Notice::DamagedSlot { index }));
        if replayed.dropped > 0 {
            notices.push(Notice::DroppedGroups { count: replayed.dropped });
        }
        let rotating = self.rotating();
        notices.extend(rotating.map(|left| Notice::KeyRotation { blocks_left: left.blocks_left }));
        VolumeInfo {
            image: self.header.image,
            root_digest: self.packed.map(|facts| facts.root_digest),
            manifest_root: self.packed.map(|facts| facts.manifest_root),
            lowers: self.lowers().to_vec(),
            volume_id: self.header.volume_id,
            label: self.header.label.clone(),
            format_version: FORMAT_VERSION,
            size_bytes: self.header.total_blocks * BLOCK_SIZE_U64,
            generation: self.base_generation(),
            epochs: self.epoch_count(),
            max_epochs: self.limits.epochs,
            reencrypting: self.reencrypting(),
            key_generation: self.header.key_generation,
            rotating,
            anchor,
            read_only: self.read_only,
            replayed_groups: replayed.groups,
            dropped_groups: replayed.dropped,
            notices,
        }
    }
}
