//! Opening a packed image: header, root block, and the arithmetic that leaves no byte over.
//!
//! What a mount reads of a volume's newest checkpoint, a packed image says in its root block; there is no log, nothing is
//! allocated, and nothing is ever written, so everything else of a store stays as it was made.
//!
//! *Security*: who lets an image in is decided by what the caller gave, before anything of the image is believed. A key
//! admits encrypted images only, for nobody needs a key to make a public one. A root digest admits exactly one image. Header
//! and root block are read once, into memory that only we see, and what was digested is what is decoded.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::backend::Backend;
use crate::env::Env;
use crate::error::{Corrupt, Incompatible, Malformed, Result, Tampered};
use crate::format::{
    AllocEntry, AnchorBinding, Checkpoint, Digest, FILES_TREE, HEADER_LEN, Header, ImageType, PACKED_DATA_ADDR,
    PACKED_ROOT_ADDR, PackedRoot, TreeRoot, VerifiedHeader,
};
use crate::keys::{self, Keyring, OpenFault, VolumeKey};
use crate::sealer::Sealer;
use crate::store::recovery::{OpenedHeader, OpenedSlot, build};
use crate::store::{Store, StoreOptions};
use crate::suite::Suite;
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64, BlockAddr, EpochId, Generation, Lsn};

/// Inode numbers of a packed image are below; a volume over it takes its own from here on.
pub(crate) const PACKED_IDS_END: u64 = 1 << 62;
/// Where a root block's payload begins, after salt and tag.
const PAYLOAD_AT: usize = 48;

/// What is particular to a packed image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PackedFacts {
    pub(crate) root_digest: Digest,
    pub(crate) manifest_root: Digest,
    /// The caller demanded this root digest.
    pub(crate) pinned: bool,
    /// Data blocks, which stand side by side behind the root block.
    pub(crate) data_blocks: u64,
}

/// An image whose header and root block were admitted.
pub(crate) struct Admitted {
    pub(crate) header: Header,
    pub(crate) verified: VerifiedHeader,
    pub(crate) root: PackedRoot,
    pub(crate) sealer: Sealer,
    pub(crate) facts: PackedFacts,
}

/// Header and root block as they stand there, in memory of our own.
struct Front {
    header: Vec<u8>,
    root_block: Box<[u8; BLOCK_SIZE]>,
}

impl Store {
    /// Opens a packed image: an encrypted one with its key, a public one without.
    pub(crate) fn open_packed(
        backend: Arc<dyn Backend>,
        key: Option<&VolumeKey>,
        options: &StoreOptions,
        env: &Env,
    ) -> Result<Store> {
        let admitted = admit(&*backend, key, options, env)?;
        if options.anchor.is_some() {
            return Err(Incompatible::NotAnchored.into());
        }
        let Admitted { header, verified, root, sealer, facts } = admitted;
        let checkpoint = as_checkpoint(&root);
        let opened = OpenedHeader { header, verified, replica: false, bytes: Vec::new() };
        let bytes = Box::new([0; BLOCK_SIZE]);
        let slot = OpenedSlot { index: 0, opened: keys::OpenedSlot { checkpoint, salt: [0; 32], tag: [0; 16] }, bytes };
        let mut store = build(backend, sealer, &opened, &slot, None, options, env)?;
        store.read_only = true;
        store.packed = Some(facts);
        Ok(store)
    }
}

/// Whether what stands there says that it is a packed image. It decides which door is tried, not what passes it.
pub(crate) fn claims_to_be_packed(backend: &dyn Backend) -> bool {
    // Nearly everything that is opened is a volume, which its first block says.
    let first = backend.read_at(0, BLOCK_SIZE).ok();
    if !first.is_some_and(|buf| Header::states_packed(buf.bytes())) {
        return false;
    }
    let header = backend.read_at(0, HEADER_LEN).ok().and_then(|buf| Header::decode(buf.bytes()).ok());
    header.is_some_and(|header| header.image.is_packed())
}

/// The root digest of what stands there, whoever made it: it proves nothing.
pub(crate) fn root_digest(backend: &dyn Backend, suite: &dyn Suite) -> Result<Digest> {
    let front = Front::read(backend)?;
    match Header::decode(&front.header)?.image.is_packed() {
        true => Ok(front.root_digest(suite)),
        false => Err(Incompatible::NotPacked.into()),
    }
}

/// Lets an image in, or not; see the module's header.
pub(crate) fn admit(
    backend: &dyn Backend,
    key: Option<&VolumeKey>,
    options: &StoreOptions,
    env: &Env,
) -> Result<Admitted> {
    let (suite, front) = (&*env.suite, Front::read(backend)?);
    let image = Header::decode(&front.header)?.image;
    match (image, key, options.root_digest) {
        (ImageType::Volume, ..) => return Err(Incompatible::NotPacked.into()),
        (ImageType::Packed, None, _) => return Err(Incompatible::KeyNeeded.into()),
        (ImageType::Public, Some(_), _) | (ImageType::Public, _, None) => return Err(Incompatible::NoKeyAdmits.into()),
        (ImageType::Packed, Some(_), _) | (ImageType::Public, None, Some(_)) => {}
    }
    let root_digest = front.root_digest(suite);
    if options.root_digest.is_some_and(|pin| pin != root_digest) {
        return Err(Incompatible::RootDigest.into());
    }
    let (header, verified, root, sealer) = match (key, options.root_digest) {
        (Some(key), _) => front.open_sealed(key, env)?,
        (None, Some(pin)) => front.open_public(&pin, env)?,
        (None, None) => return Err(Incompatible::NoKeyAdmits.into()),
    };
    if options.volume_id.is_some_and(|id| id != header.volume_id) {
        return Err(Incompatible::VolumeId.into());
    }
    check_extent(backend, &header, &root)?;
    let (manifest_root, data_blocks) = (root.manifest_root, root.data_blocks);
    let facts = PackedFacts { root_digest, manifest_root, pinned: options.root_digest.is_some(), data_blocks };
    Ok(Admitted { header, verified, root, sealer, facts })
}

impl Front {
    fn read(backend: &dyn Backend) -> Result<Front> {
        let header = backend.read_at(0, HEADER_LEN)?.bytes().to_vec();
        let mut root_block = Box::new([0; BLOCK_SIZE]);
        // A volume's slot stands there, and a file that ends before is no image.
        root_block.copy_from_slice(backend.read_at(PACKED_ROOT_ADDR.0 * BLOCK_SIZE_U64, BLOCK_SIZE)?.bytes());
        Ok(Front { header, root_block })
    }

    fn root_digest(&self, suite: &dyn Suite) -> Digest {
        Header::root_digest(suite, &self.header, &self.root_block)
    }

    fn open_sealed(&self, key: &VolumeKey, env: &Env) -> Result<(Header, VerifiedHeader, PackedRoot, Sealer)> {
        let (header, verified) = key.verify_header(&*env.suite, &self.header)?;
        let keyring = Keyring::new(env.suite.clone(), key, &verified);
        let (root, salt) = keyring.open_packed_root(&self.root_block).map_err(|fault| match fault {
            OpenFault::Auth => crate::error::Error::from(Tampered::RootBlock),
            OpenFault::Corrupt(why) => Corrupt::RootBlock(why).into(),
        })?;
        let sealer = Sealer::packed(env.suite.clone(), env.rng.clone(), keyring, &salt)?;
        Ok((header, verified, root, sealer))
    }

    fn open_public(&self, pin: &Digest, env: &Env) -> Result<(Header, VerifiedHeader, PackedRoot, Sealer)> {
        let (header, verified) = Header::verify_pinned(&self.header, &self.root_block, pin, &*env.suite)?;
        let (plain, payload) = self.root_block.split_at(PAYLOAD_AT);
        if plain.iter().any(|&byte| byte != 0) {
            return Err(Corrupt::RootBlock("a public image's salt and tag").into());
        }
        let root = PackedRoot::decode(payload).map_err(Corrupt::RootBlock)?;
        Ok((header, verified, root, Sealer::public(env.suite.clone(), env.rng.clone())))
    }
}

/// Every block of the file is header, root block, data, node, or one of at most a few of padding: no other length is right.
fn check_extent(backend: &dyn Backend, header: &Header, root: &PackedRoot) -> Result<()> {
    let node_blocks = u64::from(header.node_size_bytes) / BLOCK_SIZE_U64;
    // Counts are below 2^47.
    let data_end = PACKED_DATA_ADDR.0 + root.data_blocks;
    let nodes_start = data_end.next_multiple_of(node_blocks);
    if root.nodes == 0 || nodes_start + root.nodes * node_blocks != header.total_blocks {
        return Err(Corrupt::RootBlock("counts contradict the length").into());
    }
    let reference = &root.root;
    if reference.addr.0 != header.total_blocks - node_blocks || reference.len_bytes != header.node_size_bytes {
        return Err(Corrupt::RootBlock("the root is not the last node").into());
    }
    let (expected_bytes, actual_bytes) = (header.total_blocks * BLOCK_SIZE_U64, backend.len_bytes()?);
    if actual_bytes < expected_bytes {
        return Err(Malformed::Truncated { expected_bytes, actual_bytes }.into());
    }
    if actual_bytes > expected_bytes {
        return Err(Malformed::Longer { expected_bytes, actual_bytes }.into());
    }
    for addr in data_end..nodes_start {
        let block = backend.read_at(addr * BLOCK_SIZE_U64, BLOCK_SIZE)?;
        if block.bytes().iter().any(|&byte| byte != 0) {
            return Err(Tampered::Padding { addr: BlockAddr(addr) }.into());
        }
    }
    Ok(())
}

/// What a mount takes from a checkpoint, as the root block has it.
fn as_checkpoint(root: &PackedRoot) -> Checkpoint {
    let (level, reference) = (root.level, Some(root.root));
    let files = TreeRoot { tree: FILES_TREE, level, birth: Generation(0), parent: 0, reference };
    Checkpoint {
        generation: Generation(0),
        previous_salt: [0; 32],
        log_start: Lsn(0),
        previous_tag: [0; 16],
        log_epoch: EpochId(0),
        epoch_count: 0,
        clean: true,
        epoch_start: false,
        accepted_headers: Vec::new(),
        alloc_levels: 1,
        next_id: PACKED_IDS_END,
        free_blocks: 0,
        unwritten_blocks: 0,
        inodes: root.inodes,
        nodes: root.nodes,
        alloc_root: AllocEntry::default(),
        anchor: AnchorBinding::default(),
        roots: alloc::vec![files],
        epoch_pages: Vec::new(),
        rotation: None,
    }
}
