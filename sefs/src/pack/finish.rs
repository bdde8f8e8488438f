//! The end of building: the content's digest, the tree, the root block, and last the header.

use alloc::vec::Vec;

use super::records::Form;
use super::tree::{NODE_BLOCKS, Tree, TreeBuilder};
use super::{NODE_SIZE_BYTES, Output, PackSummary, Packer, new_header};
use crate::backend::Backend;
use crate::digest;
use crate::error::{Invalid, Posix, Result};
use crate::format::{Digest, FORMAT_VERSION, Header, ImageType, PACKED_DATA_ADDR, PACKED_ROOT_ADDR, PackedRoot};
use crate::keys::{CLASS_NODE, VolumeKey};
use crate::suite::{Nonce, Suite};
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64, BlockAddr};

/// Changes whenever the same content would give another image.
const BUILDER_VERSION: u16 = 1;
const CONTENT_DOMAIN: &[u8] = b"sefs 1 packed content";
const VOLUME_ID_DOMAIN: &[u8] = b"sefs 1 packed volume id";
/// Where a root block's payload begins, after salt and tag.
const PAYLOAD_AT: usize = 48;

/// The salt of a reproducible encrypted image: a function of its complete plaintext that only who has the key can tell.
pub fn reproducible_salt(suite: &dyn Suite, key: &VolumeKey, content_digest: &Digest) -> [u8; 32] {
    let secret = crate::suite::SecretKey::copy_of(key.expose());
    suite.mac(&suite.derive(&[], &secret, &[b"sefs 1 reproducible salt"]), content_digest)
}

impl Packer {
    /// Builds the tree and writes what is left; when it returns, the image is complete and durable.
    pub fn finish(mut self, manifest_root: Digest) -> Result<PackSummary> {
        if self.open.is_some() {
            return Err(Posix::Busy.into());
        }
        let placed = self.blocks.flush()?;
        self.note(placed);
        let data_end = PACKED_DATA_ADDR.0 + self.blocks.count();
        let nodes_start = BlockAddr(data_end.next_multiple_of(NODE_BLOCKS));
        let measured = self.build(Form::Plain, nodes_start)?;
        let plain_root = self.root_of(&measured, manifest_root);
        let content_digest = self.content_digest(&plain_root);
        let total_blocks = nodes_start.0 + measured.nodes * NODE_BLOCKS;
        let mut summary = PackSummary {
            content_digest,
            root_digest: None,
            volume_id: [0; 16],
            size_bytes: total_blocks * BLOCK_SIZE_U64,
            data_blocks: plain_root.data_blocks,
            shared_blocks: self.blocks.shared,
            nodes: measured.nodes,
            inodes: plain_root.inodes,
        };
        let (backend, volume_id) = match &self.output {
            Output::Measure(_) => return Ok(summary),
            Output::Public { backend, volume_id } => {
                (backend, volume_id.unwrap_or_else(|| self.derived_id(&content_digest)))
            }
            Output::Sealed { measured: Some(expected), .. } if *expected != content_digest => {
                return Err(Invalid::ContentChanged.into());
            }
            Output::Sealed { backend, volume_id, .. } => (backend, *volume_id),
        };
        let padding = usize::try_from(nodes_start.0 - data_end).unwrap_or(0) * BLOCK_SIZE;
        // What was abandoned may have stood there.
        write(&**backend, data_end, &alloc::vec![0; padding])?;
        let header = new_header(&self.output, &self.options, volume_id, total_blocks);
        let (header, root_block) = self.front(&header, plain_root, nodes_start)?;
        write(&**backend, PACKED_ROOT_ADDR.0, &root_block)?;
        backend.flush()?;
        write(&**backend, 0, &header)?;
        backend.flush()?;
        summary.root_digest = Some(Header::root_digest(&*self.suite, &header, &root_block));
        summary.volume_id = volume_id;
        Ok(summary)
    }

    /// The stored header and root block; the sealed tree is built on the way.
    fn front(
        &self,
        header: &Header,
        plain_root: PackedRoot,
        nodes_start: BlockAddr,
    ) -> Result<(Vec<u8>, [u8; BLOCK_SIZE])> {
        if let (Output::Sealed { key, salt, .. }, Some(keyring)) = (&self.output, &self.keyring) {
            let tree = self.build(Form::Sealed, nodes_start)?;
            let root = self.root_of(&tree, plain_root.manifest_root);
            let (header, _) = key.seal_header(&*self.suite, header);
            return Ok((header.into_vec(), *keyring.seal_packed_root(&root, salt)));
        }
        let mut root_block = [0; BLOCK_SIZE];
        root_block[PAYLOAD_AT..].copy_from_slice(&plain_root.encode());
        Ok((header.encode_public().into_vec(), root_block))
    }

    fn build(&self, form: Form, nodes_start: BlockAddr) -> Result<Tree> {
        let mut write = |level: u8, addr: BlockAddr, bytes: Vec<u8>| self.put_node(form, level, addr, bytes);
        let mut tree = TreeBuilder::new(nodes_start, &mut write);
        self.each_record(form, &mut |key, value| tree.push(key, value))?;
        tree.finish()
    }

    /// Writes a node in the form in which the image has it; the measure of a sealed image writes nothing.
    fn put_node(&self, form: Form, level: u8, addr: BlockAddr, bytes: Vec<u8>) -> Result<(Nonce, Digest)> {
        let suite = &*self.suite;
        match (form, self.blocks.cipher(), &self.output) {
            (Form::Sealed, Some(cipher), Output::Sealed { backend, .. }) => {
                let (sealed, digest) = cipher.seal_node(suite, level, addr, &bytes);
                write(&**backend, addr.0, &sealed)?;
                Ok((super::blocks::nonce_of(addr), digest))
            }
            (_, _, output) => {
                if let Output::Public { backend, .. } = output {
                    write(&**backend, addr.0, &bytes)?;
                }
                Ok((Nonce::default(), digest::of_stored(suite, CLASS_NODE, level, None, &bytes)))
            }
        }
    }

    fn root_of(&self, tree: &Tree, manifest_root: Digest) -> PackedRoot {
        PackedRoot {
            data_blocks: self.blocks.count(),
            nodes: tree.nodes,
            inodes: self.inodes.len() as u64,
            level: tree.level,
            manifest_root,
            root: tree.root,
        }
    }

    /// The plaintext root commits to records, layout and content; with it stands what else the image's bytes depend on.
    fn content_digest(&self, plain_root: &PackedRoot) -> Digest {
        let image = match &self.output {
            Output::Measure(image) => *image,
            Output::Public { .. } => ImageType::Public,
            Output::Sealed { .. } => ImageType::Packed,
        };
        let (image_type, suite) = image.numbers();
        let numbers = [BUILDER_VERSION, FORMAT_VERSION, image_type, suite].map(u16::to_le_bytes).concat();
        let label = self.options.label.as_bytes();
        let label_len = (label.len() as u64).to_le_bytes();
        let parts: [&[u8]; 6] =
            [CONTENT_DOMAIN, &numbers, &NODE_SIZE_BYTES.to_le_bytes(), &label_len, label, &plain_root.encode()];
        self.suite.sha256(&parts)
    }

    /// A UUID (RFC 9562, version 8) that follows from the content.
    fn derived_id(&self, content_digest: &Digest) -> [u8; 16] {
        let [id @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] =
            self.suite.sha256(&[VOLUME_ID_DOMAIN, content_digest]);
        as_uuid(id)
    }
}

/// Sets the version and variant of a UUID that was made by rules of one's own (RFC 9562, version 8).
fn as_uuid(mut id: [u8; 16]) -> [u8; 16] {
    (id[6], id[8]) = (id[6] & 0x0f | 0x80, id[8] & 0x3f | 0x80);
    id
}

fn write(backend: &dyn Backend, block: u64, bytes: &[u8]) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let offset_bytes = block * BLOCK_SIZE_U64;
    backend.grow(offset_bytes + bytes.len() as u64)?;
    let mut buf = backend.buffer(bytes.len());
    buf.bytes_mut().copy_from_slice(bytes);
    backend.write_at(offset_bytes, buf).map_err(Into::into)
}
