//! Data blocks on their way into the image: hashed, compared with those that are there, placed, sealed, written.
//!
//! They are taken in batches, so that several threads have something to do and the host gets long writes. A batch is
//! processed in order: addresses depend on nothing but the order in which blocks come.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{PackOptions, spread};
use crate::backend::Backend;
use crate::digest;
use crate::error::Result;
use crate::format::{Digest, PACKED_DATA_ADDR};
use crate::keys::{CLASS_DATA, CLASS_NODE, Keyring, associated};
use crate::suite::{Aead, Nonce, Suite};
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64, BlockAddr, InodeNo};

/// Blocks of a batch (4 MiB).
const BATCH_BLOCKS: usize = 1024;

/// The keys of an encrypted image.
pub(super) struct Cipher {
    data: Box<dyn Aead>,
    node: Box<dyn Aead>,
}

/// Where a block of a file came to stand.
pub(super) struct Placed {
    pub(super) ino: InodeNo,
    pub(super) block: u64,
    pub(super) addr: BlockAddr,
}

/// All data blocks.
pub(super) struct Blocks {
    suite: Arc<dyn Suite>,
    backend: Option<Arc<dyn Backend>>,
    cipher: Option<Cipher>,
    dedup: bool,
    threads: usize,
    /// Digests of the plaintext by address, from [`PACKED_DATA_ADDR`].
    plain: Vec<Digest>,
    /// Digests of what is stored, if it is encrypted.
    sealed: Vec<Digest>,
    known: BTreeMap<Digest, BlockAddr>,
    pending: Vec<u8>,
    owners: Vec<(InodeNo, u64)>,
    /// The last inode that brought a new block, and its first one.
    newest: Option<(InodeNo, usize)>,
    pub(super) shared: u64,
}

/// The nonce of what stands at an address: each is sealed once.
pub(crate) fn nonce_of(addr: BlockAddr) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&addr.0.to_be_bytes());
    nonce
}

impl Cipher {
    pub(super) fn new(keyring: &Keyring, salt: &[u8; 32]) -> Cipher {
        let secret = keyring.packed_secret(salt);
        let key = |label: &[u8]| keyring.epoch_key(&secret, label, keyring.immutable_digest());
        Cipher { data: key(b"sefs 1 data"), node: key(b"sefs 1 node") }
    }

    /// Seals a node, and returns what proves it.
    pub(super) fn seal_node(&self, suite: &dyn Suite, level: u8, addr: BlockAddr, plain: &[u8]) -> (Vec<u8>, Digest) {
        let (nonce, mut own) = (nonce_of(addr), alloc::vec![0; plain.len()]);
        self.node.seal(&nonce, &associated(CLASS_NODE, level), plain, &mut own);
        let digest = digest::of_stored(suite, CLASS_NODE, level, Some(&nonce), &own);
        (own, digest)
    }
}

impl Blocks {
    pub(super) fn new(
        suite: Arc<dyn Suite>,
        backend: Option<Arc<dyn Backend>>,
        cipher: Option<Cipher>,
        options: &PackOptions,
    ) -> Blocks {
        Blocks {
            suite,
            backend,
            cipher,
            dedup: options.dedup,
            threads: options.threads,
            plain: Vec::new(),
            sealed: Vec::new(),
            known: BTreeMap::new(),
            pending: Vec::new(),
            owners: Vec::new(),
            newest: None,
            shared: 0,
        }
    }

    /// Takes a block; returns those whose places are known now.
    pub(super) fn push(&mut self, ino: InodeNo, block: u64, bytes: &[u8; BLOCK_SIZE]) -> Result<Vec<Placed>> {
        self.pending.extend_from_slice(bytes);
        self.owners.push((ino, block));
        if self.owners.len() < BATCH_BLOCKS { Ok(Vec::new()) } else { self.flush() }
    }

    /// Places everything that was taken.
    pub(super) fn flush(&mut self) -> Result<Vec<Placed>> {
        let pending = core::mem::take(&mut self.pending);
        let owners = core::mem::take(&mut self.owners);
        let mut hashed: Vec<(&[u8], Digest)> =
            pending.chunks_exact(BLOCK_SIZE).map(|block| (block, Digest::default())).collect();
        let suite = &*self.suite;
        spread::each(&mut hashed, self.threads, |(block, digest)| {
            *digest = digest::of_stored(suite, CLASS_DATA, 0, None, block);
        });
        let first_new = self.plain.len();
        let (mut placed, mut new) = (Vec::with_capacity(owners.len()), Vec::new());
        for ((ino, block), (bytes, digest)) in owners.into_iter().zip(hashed) {
            let addr = match self.known.get(&digest) {
                Some(addr) => {
                    self.shared += 1;
                    *addr
                }
                None => {
                    new.push(bytes);
                    self.place(ino, digest)
                }
            };
            placed.push(Placed { ino, block, addr });
        }
        self.store(first_new, &new)?;
        Ok(placed)
    }

    fn place(&mut self, ino: InodeNo, digest: Digest) -> BlockAddr {
        let index = self.plain.len();
        let addr = address(index);
        self.plain.push(digest);
        if self.dedup {
            self.known.insert(digest, addr);
        }
        if self.newest.is_none_or(|(newest, _)| newest != ino) {
            self.newest = Some((ino, index));
        }
        addr
    }

    /// Seals and writes new blocks, which stand side by side.
    fn store(&mut self, first: usize, new: &[&[u8]]) -> Result<()> {
        let Some(backend) = self.backend.as_ref().filter(|_| !new.is_empty()) else { return Ok(()) };
        let (start, len) = (address(first).0 * BLOCK_SIZE_U64, new.len() * BLOCK_SIZE);
        let mut buf = backend.buffer(len);
        let (suite, cipher) = (&*self.suite, self.cipher.as_ref());
        let places = buf.bytes_mut().chunks_exact_mut(BLOCK_SIZE);
        let mut items: Vec<_> = (first..)
            .zip(new)
            .zip(places)
            .map(|((index, plain), out)| (address(index), *plain, out, Digest::default()))
            .collect();
        spread::each(&mut items, self.threads, |(addr, plain, out, digest)| match cipher {
            None => out.copy_from_slice(plain),
            Some(cipher) => {
                let (nonce, mut own) = (nonce_of(*addr), [0; BLOCK_SIZE]);
                cipher.data.seal(&nonce, &associated(CLASS_DATA, 0), plain, &mut own);
                *digest = digest::of_stored(suite, CLASS_DATA, 0, Some(&nonce), &own);
                out.copy_from_slice(&own);
            }
        });
        if self.cipher.is_some() {
            self.sealed.extend(items.into_iter().map(|(.., digest)| digest));
        }
        backend.grow(start + len as u64)?;
        backend.write_at(start, buf).map_err(Into::into)
    }

    /// What this inode was the last to bring was never there; all of it is placed.
    pub(super) fn forget_newest_of(&mut self, ino: InodeNo) {
        let Some((_, first)) = self.newest.filter(|(newest, _)| *newest == ino) else { return };
        self.plain.truncate(first);
        self.sealed.truncate(first);
        self.known.retain(|_, addr| *addr < address(first));
        self.newest = None;
    }

    /// How many there are; all are placed.
    pub(super) fn count(&self) -> u64 {
        self.plain.len() as u64
    }

    /// What proves the plaintext at an address.
    pub(super) fn plain(&self, addr: BlockAddr) -> Digest {
        at(&self.plain, addr)
    }

    /// What proves the stored bytes at an address.
    pub(super) fn sealed(&self, addr: BlockAddr) -> Digest {
        at(&self.sealed, addr)
    }

    pub(super) fn cipher(&self) -> Option<&Cipher> {
        self.cipher.as_ref()
    }
}

fn address(index: usize) -> BlockAddr {
    BlockAddr(PACKED_DATA_ADDR.0 + index as u64)
}

fn at(digests: &[Digest], addr: BlockAddr) -> Digest {
    // Only addresses that were handed out come here.
    let index = usize::try_from(addr.0 - PACKED_DATA_ADDR.0).unwrap_or(usize::MAX);
    digests[index]
}
