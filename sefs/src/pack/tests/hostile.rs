//! What a host, or whoever has the key, can do to a packed image: nothing that is not noticed.

use aes_gcm::aead::KeyInit;
use aes_gcm::aes::Aes256;
use aes_gcm::aes::cipher::{Array, BlockCipherEncrypt};

use super::*;
use crate::backend::{BackendError, Batch, HostBuf, Io, Ticket};
use crate::error::{Incompatible, Malformed, Tampered};
use crate::format::HEADER_LEN;
use crate::keys::associated;
use crate::suite::{RustCrypto, Tag};

/// A small tree: every byte of its image can be tried.
fn small(packer: &mut Packer) {
    let root = packer.make_root(&entry(FileKind::Directory, 0o755)).unwrap();
    file(packer, root, b"a", &[block(1), vec![9; 100]].concat());
    file(packer, root, b"b", b"inline");
    packer.set_xattr(root, b"user.colour", b"green").unwrap();
}

fn small_public() -> (Arc<MemoryBackend>, PackSummary) {
    let backend = Arc::new(MemoryBackend::new(0));
    let output = Output::Public { backend: backend.clone(), volume_id: None };
    let mut packer = Packer::new(output, options(), &Env::host()).unwrap();
    small(&mut packer);
    (backend, packer.finish([6; 32]).unwrap())
}

fn small_sealed() -> (Arc<MemoryBackend>, PackSummary) {
    let backend = Arc::new(MemoryBackend::new(0));
    let (to, slots) = (backend.clone(), vec![KeySlot { kind: 1, body: vec![3; 70] }]);
    let output = Output::Sealed { backend: to, key: key(), volume_id: [4; 16], slots, salt: [1; 32], measured: None };
    let mut packer = Packer::new(output, options(), &Env::host()).unwrap();
    small(&mut packer);
    (backend, packer.finish([6; 32]).unwrap())
}

fn put(backend: &MemoryBackend, block: usize, bytes: &[u8]) {
    let mut buf = HostBuf::zeroed(BLOCK_SIZE);
    buf.bytes_mut().copy_from_slice(&bytes[block * BLOCK_SIZE..(block + 1) * BLOCK_SIZE]);
    backend.write_at((block * BLOCK_SIZE) as u64, buf).unwrap();
}

/// Reads everything that there is.
fn read_all(volume: &Volume) -> Result<Vec<u8>> {
    let (root, mut all) = (Caller::root(), Vec::new());
    for entry in volume.read_dir(InodeNo::ROOT, 0, 100)? {
        all.extend(alloc::format!("{entry:?}{:?}", volume.attr(entry.ino)?).into_bytes());
        if entry.kind == FileKind::Regular {
            let mut out = vec![0; 10_000];
            let count = volume.read(entry.ino, 0, &mut out)?;
            all.extend(&out[..count]);
        }
    }
    all.extend(volume.get_xattr(&root, InodeNo::ROOT, b"user.colour")?);
    Ok(all)
}

/// Flips one bit of each byte in turn: opening or reading everything is refused each time, and nothing else comes back.
fn every_byte(backend: &Arc<MemoryBackend>, open: &dyn Fn() -> Result<Volume>) -> BTreeMap<String, usize> {
    let original = bytes(backend);
    let (mut flipped, mut refusals) = (original.clone(), BTreeMap::new());
    assert!(read_all(&open().unwrap()).is_ok());
    for at in 0..original.len() {
        flipped[at] ^= 1 << (at % 8);
        put(backend, at / BLOCK_SIZE, &flipped);
        let error = match open().and_then(|volume| read_all(&volume)) {
            Ok(_) => panic!("byte {at} may be anything"),
            Err(error) => error,
        };
        let name = alloc::format!("{error:?}");
        let name = name.split([' ', '{']).next().unwrap_or_default();
        *refusals.entry(String::from(name)).or_insert(0) += 1;
        flipped[at] = original[at];
        put(backend, at / BLOCK_SIZE, &flipped);
    }
    assert!(read_all(&open().unwrap()).is_ok());
    refusals
}

#[test]
fn a_bit_of_any_byte_of_a_public_image_is_refused() {
    let (backend, summary) = small_public();
    let env = Env::host();
    let refusals = every_byte(&backend, &|| Volume::open_public(backend.clone(), &pinned(&summary), &env));
    let data = usize::try_from(summary.data_blocks).unwrap() * BLOCK_SIZE;
    assert_eq!(refusals.get("Tampered(Data"), Some(&data), "{refusals:?}");
    assert_eq!(refusals.get("Tampered(Node"), Some(&16_384), "{refusals:?}");
    let total: usize = refusals.values().sum();
    assert_eq!(total, bytes(&backend).len());
    assert!(refusals.keys().all(|name| !name.starts_with("Corrupt")), "{refusals:?}");
}

#[test]
fn a_bit_of_any_byte_of_an_encrypted_image_is_refused() {
    let (backend, summary) = small_sealed();
    let (env, key) = (Env::host(), key());
    let refusals = every_byte(&backend, &|| Volume::open(backend.clone(), &key, &OpenOptions::default(), &env));
    let data = usize::try_from(summary.data_blocks).unwrap() * BLOCK_SIZE;
    assert_eq!(refusals.get("Tampered(Data"), Some(&data), "{refusals:?}");
    assert_eq!(refusals.get("Tampered(Node"), Some(&16_384), "{refusals:?}");
    assert_eq!(refusals.get("Tampered(RootBlock)"), Some(&BLOCK_SIZE), "{refusals:?}");
    assert!(refusals.keys().all(|name| !name.starts_with("Corrupt")), "{refusals:?}");
}

#[test]
fn padding_that_is_not_zero_is_refused_at_opening() {
    let (backend, summary) = small_public();
    let mut image = bytes(&backend);
    let padding = 17 + usize::try_from(summary.data_blocks).unwrap();
    assert_eq!(padding, 19, "there is some, up to block 20");
    image[(padding + 1) * BLOCK_SIZE - 1] = 1;
    put(&backend, padding, &image);
    let error = refusal(Volume::open_public(backend, &pinned(&summary), &Env::host()));
    assert_eq!(error, Tampered::Padding { addr: BlockAddr(19) }.into());
}

#[test]
fn no_other_length_is_right() {
    for (backend, open) in [small_public(), small_sealed()].map(|(backend, summary)| {
        let open = move |backend: Arc<MemoryBackend>| match summary.volume_id {
            [4, ..] => Volume::open(backend, &key(), &OpenOptions::default(), &Env::host()),
            _ => Volume::open_public(backend, &pinned(&summary), &Env::host()),
        };
        (backend, open)
    }) {
        let original = bytes(&backend);
        let blocks = original.len() / BLOCK_SIZE;
        let of_length = |blocks: usize| {
            let other = Arc::new(MemoryBackend::new((blocks * BLOCK_SIZE) as u64));
            (0..blocks.min(original.len() / BLOCK_SIZE)).for_each(|block| put(&other, block, &original));
            open(other)
        };
        assert!(of_length(blocks).is_ok());
        for longer in [blocks + 1, blocks + 4, blocks * 2] {
            assert!(matches!(refusal(of_length(longer)), Error::Malformed(Malformed::Longer { .. })));
        }
        for shorter in 17..blocks {
            assert!(matches!(refusal(of_length(shorter)), Error::Malformed(Malformed::Truncated { .. })));
        }
        (0..17).for_each(|shorter| drop(refusal(of_length(shorter))));
    }
}

#[test]
fn type_and_suite_in_the_header_change_nothing_but_the_refusal() {
    for (backend, summary) in [small_public(), small_sealed()] {
        let original = bytes(&backend);
        for (image_type, suite) in (0..6_u8).flat_map(|image| (0..6_u8).map(move |suite| (image, suite))) {
            let mut changed = original.clone();
            if (changed[10], changed[40]) == (image_type, suite) {
                continue;
            }
            (changed[10], changed[40]) = (image_type, suite);
            put(&backend, 0, &changed);
            let env = Env::host();
            for options in [OpenOptions::default(), pinned(&summary)] {
                refusal(Volume::open_public(backend.clone(), &options, &env));
                refusal(Volume::open(backend.clone(), &key(), &options, &env));
            }
        }
    }
}

/// Whoever has the key can make another block with the same GCM tag: two pieces of ciphertext change so that what they add
/// to the tag cancels out. The digest of a packed image's reference sees it.
#[test]
fn a_block_that_collides_under_gcm_is_refused_by_its_digest() {
    let (backend, _) = small_sealed();
    let mut image = bytes(&backend);
    let header: &[u8] = &image[..HEADER_LEN];
    let (_, verified) = key().verify_header(&RustCrypto, header).unwrap();
    let ring = Keyring::new(Arc::new(RustCrypto), &key(), &verified);
    let data_key =
        RustCrypto.derive(&[], &ring.packed_secret(&[1; 32]), &[b"sefs 1 data", verified.immutable_digest()]);
    let (nonce, associated) = (nonce_of(BlockAddr(17)), associated(crate::keys::CLASS_DATA, 0));
    let at = 17 * BLOCK_SIZE..18 * BLOCK_SIZE;
    // The hash key of GCM is the encryption of zeros.
    let mut hash_key = Array::from([0; 16]);
    Aes256::new(data_key.expose().into()).encrypt_block(&mut hash_key);
    let aead = RustCrypto.aead(&data_key);
    let mut plain = image[at.clone()].to_vec();
    aead.decrypt_verified(&nonce, &mut plain);
    assert_eq!(plain, block(1), "this is the first block of the file");
    let tag: Tag = aead.seal(&nonce, &associated, &plain, &mut vec![0; BLOCK_SIZE]);
    // The first piece changes by 1, which counts times the hash key once more than the second, which changes by the hash key.
    image[at.start] ^= 0x80;
    image[at.start + 16..at.start + 32].iter_mut().zip(hash_key).for_each(|(byte, more)| *byte ^= more);
    assert!(aead.open(&nonce, &associated, &mut image[at].to_vec(), &tag).is_ok(), "the tag is the same");
    put(&backend, 17, &image);
    let volume = Volume::open(backend, &key(), &OpenOptions::default(), &Env::host()).unwrap();
    let ino = volume.lookup(&Caller::root(), InodeNo::ROOT, b"a").unwrap().ino;
    let refused = volume.read(ino, 0, &mut [0; 100]).unwrap_err();
    assert_eq!(refused, Tampered::Data { addr: BlockAddr(17), object: ino.into(), block: 0 }.into());
}

/// A host whose first answer is not its second: at first there is no header of a packed image.
struct TwoFaced(Arc<MemoryBackend>, core::sync::atomic::AtomicBool);

impl Backend for TwoFaced {
    fn submit(&self, mut batch: Batch) -> core::result::Result<Ticket, BackendError> {
        let first = !self.1.swap(true, core::sync::atomic::Ordering::Relaxed);
        if let (true, [Io::Read { buf, .. }]) = (first, &mut batch[..]) {
            buf.bytes_mut().fill(0);
            return Ok(Ticket::Done(batch));
        }
        self.0.submit(batch)
    }

    fn wait(&self, ticket: Ticket) -> core::result::Result<Batch, BackendError> {
        self.0.wait(ticket)
    }

    fn flush(&self) -> core::result::Result<(), BackendError> {
        self.0.flush()
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> core::result::Result<(), BackendError> {
        self.0.discard(offset_bytes, len_bytes)
    }

    fn len_bytes(&self) -> core::result::Result<u64, BackendError> {
        self.0.len_bytes()
    }

    fn grow(&self, len_bytes: u64) -> core::result::Result<(), BackendError> {
        self.0.grow(len_bytes)
    }
}

#[test]
fn a_packed_image_is_never_read_as_a_volume() {
    let (backend, _) = small_sealed();
    let host = Arc::new(TwoFaced(backend, core::sync::atomic::AtomicBool::new(false)));
    let opened = Volume::open(host.clone(), &key(), &OpenOptions::default(), &Env::host());
    assert_eq!(opened.err(), Some(Incompatible::ImageType(ImageType::Packed.numbers().0).into()));
    assert!(Volume::open(host, &key(), &OpenOptions::default(), &Env::host()).is_ok(), "an honest answer does");
}
