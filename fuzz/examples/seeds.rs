//! Writes the seeds of all targets into `corpus/`: one honest value of each stored type, the words that people write, and
//! random scripts over each shape of image.
//!
//! `cargo run --manifest-path fuzz/Cargo.toml --no-default-features --example seeds`

use std::fs;
use std::io;
use std::path::Path;

use sefs::format::{
    AllocEntry, BlockLoc, BlockState, Checkpoint, Chunk, DirEntryRecord, EpochPage, FileKind, GROUP_PREFIX_LEN,
    GroupPrefix, JobRecord, Key, Kind, Patch, RangeRecord, SpaceRecord, XattrHead,
};
use sefs::types::{BlockAddr, EpochId, Generation, InodeNo, ObjectId};
use sefs_fuzz::image::Image;
use sefs_fuzz::suites::{Forging, shared};
use sefs_tests::disk::PAGE;
use sefs_tests::seed::Dice;

const SCRIPTS: u64 = 40;

fn main() -> io::Result<()> {
    let images = Image::all(&shared(Forging));
    let mut dice = Dice::new(1);
    for (number, seed) in decode(&images).into_iter().enumerate() {
        write("decode", number, &seed)?;
    }
    for (number, text) in WORDS.iter().enumerate() {
        write("mkfs_input", number, text)?;
    }
    for number in 0..SCRIPTS {
        write("patch", number as usize, &random(&mut dice, 40))?;
        write("key_slots", number as usize, &random(&mut dice, 20))?;
        write("operations", number as usize, &random(&mut dice, 60))?;
        write("mkfs_input", 1000 + number as usize, &[&[10], &random(&mut dice, 300)[..]].concat())?;
        for target in ["mount_image", "mount_image_forged"] {
            for shape in 0..images.len() {
                let shape = u16::try_from(shape).expect("few shapes").to_le_bytes();
                let script = [&shape[..], &random(&mut dice, 1 + 15 * (number as usize % 8))].concat();
                write(target, number as usize * 10 + usize::from(shape[0]), &script)?;
            }
        }
    }
    Ok(())
}

/// Text, key files, tables: the first byte chooses the door.
const WORDS: [&[u8]; 12] = [
    b"\x0010GiB",
    b"\x0018446744073709551615",
    b"\x000f8e4a52-7c1d-4b39-9a60-5d3c2b1e8f74",
    b"\x00file:/var/lib/sefs/data.anchor",
    "\x00Gr\u{fc}\u{df}e \u{202e}\x1b[2J".as_bytes(),
    b"\x05ro,noatime,user,x-systemd.device-timeout=5,key-file=/a\\,b,commit=5",
    b"\x05allow_other,volume-id=0f8e4a527c1d4b399a605d3c2b1e8f74,anchor=file:/x\nrw,dev",
    b"\x07[image.\"/srv/data.sefs\"]\nkey-file = \"/etc/sefs/data.key\"\nvolume-id = \"0f8e\"\n",
    b"\x07[image.\"/a\"]\npassphrase-file = '/b'\nanchor = \"file:/c\"\nplatform = \"x\"\n",
    b"\x0900112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n",
    b"\x0932 bytes are exactly this long...",
    b"\x09\n",
];

fn random(dice: &mut Dice, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    dice.fill(&mut bytes);
    bytes
}

fn write(target: &str, number: usize, bytes: &[u8]) -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(format!("seed-{number:04}")), bytes)
}

/// One value of each type, behind the number by which the target knows it.
fn decode(images: &[std::sync::Arc<Image>]) -> Vec<Vec<u8>> {
    let mut seeds = vec![
        with(5, DirEntryRecord { ino: InodeNo(5), kind: FileKind::Regular, name: b"name".to_vec() }.encode()),
        with(6, XattrHead { name: b"user.a".to_vec(), value_len: 5, first: vec![1; 5] }.encode()),
        with(7, RangeRecord { object: ObjectId(5), first_chunk: 1, end_chunk: 9 }.encode()),
        with(8, SpaceRecord { data_blocks: 5 }.encode()),
        with(9, vec![0; 8]),
        with(10, JobRecord { reencrypt: vec![EpochId(1)], cursor: Key::new(5, Kind::Extent, 3) }.encode()),
        with(14, AllocEntry { free_blocks: 100, free_quads: 25, ..AllocEntry::default() }.encode()),
        with(15, AllocEntry { free_blocks: 100, free_quads: 25, ..AllocEntry::default() }.encode_root()),
    ];
    let mut patch = Patch::resetting();
    patch.set(3, BlockState::Unwritten, &mut |_| {});
    for block in 10..13 {
        patch.set(block, BlockState::Data(location(block)), &mut |_| {});
    }
    let mut chunk = Chunk::default();
    chunk.apply(&patch, &mut |_| {});
    seeds.extend([with(2, chunk.encode()), with(3, patch.encode())]);
    images.iter().for_each(|image| seeds.extend(stored(image)));
    seeds
}

fn location(block: u8) -> BlockLoc {
    BlockLoc {
        source: 0,
        epoch: EpochId(1),
        addr: BlockAddr(500 + u64::from(block)),
        birth: Generation(2),
        nonce: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, block],
        proof: [block; 16].into(),
    }
}

/// What an image that is not encrypted shows in plain.
fn stored(image: &Image) -> Vec<Vec<u8>> {
    let page = |page: u64| image.page(page).copied().unwrap_or([0; PAGE]);
    let header: Vec<u8> = page(0)[..512].to_vec();
    let mut seeds = vec![with(0, header)];
    for slot in [16, 17].map(page) {
        seeds.push(with(1, &slot[48..]));
        let Ok(checkpoint) = Checkpoint::decode(&slot[48..]) else { continue };
        for epochs in &checkpoint.epoch_pages {
            let payload = &page(epochs.addr.0)[32..];
            assert!(EpochPage::decode(payload).is_ok(), "an honest page");
            seeds.push(with(11, payload));
        }
        for root in checkpoint.roots.iter().filter_map(|root| root.reference) {
            seeds.push(with(16, root.encode()));
            seeds.extend(inodes(&page(root.addr.0)));
        }
    }
    for ring in (64..128).map(page) {
        let prefix = ring.first_chunk::<GROUP_PREFIX_LEN>().and_then(GroupPrefix::decode);
        if let Some(prefix) = prefix.filter(|prefix| prefix.record_blocks() == 1) {
            seeds.push(with(12, &ring[..GROUP_PREFIX_LEN + prefix.sealed_len as usize]));
        }
    }
    seeds
}

/// Values of the first block of a leaf that are as long as an inode.
fn inodes(node: &[u8; PAGE]) -> Vec<Vec<u8>> {
    let count = usize::from(u16::from_le_bytes([node[2], node[3]]));
    let values = 8 + count * 24;
    let entries = node[8..].chunks_exact(24).take(count).filter(|entry| entry[16] == 1 && node[0] == 0);
    let places = entries.map(|entry| {
        let at = values + usize::from(u16::from_le_bytes([entry[18], entry[19]]));
        at..at + usize::from(u16::from_le_bytes([entry[20], entry[21]]))
    });
    places.filter_map(|place| Some(with(4, node.get(place)?))).collect()
}

fn with(which: u8, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    [&[which], bytes.as_ref()].concat()
}
