//! Operations as data, and how to draw sequences of them.
//!
//! Directories and files are named by a number that is taken modulo what exists at that moment, so that any sequence,
//! shrunk ones too, stays meaningful.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::model::{Allocation, Renaming, XattrSetting};

/// Names that operations use.
pub const NAMES: [&[u8]; 8] = [b"a", b"b", b"c", b"\xff\xfe", b"e.txt", b"with space", LONG, TOO_LONG];
/// Names of extended attributes.
pub const XATTRS: [&[u8]; 4] = [b"user.a", b"user.bb", b"trusted.t", b"security.s"];
const LONG: &[u8] = &[b'n'; 255];
const TOO_LONG: &[u8] = &[b'n'; 256];

/// Which directory, which name.
pub type Place = (u8, u8);

/// What kind of node to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Making {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symlink with a target of so many bytes.
    Symlink(u16),
    /// A FIFO.
    Fifo,
    /// A character device.
    Device(u32),
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Make a node.
    Make(Place, Making, u32),
    /// Make a nameless file and hold it in a slot.
    Tmpfile(u8, u8),
    /// Link a node.
    Link(u8, Place),
    /// Unlink a name.
    Unlink(Place),
    /// Remove a directory.
    Rmdir(Place),
    /// Rename.
    Rename(Place, Place, Renaming),
    /// Write at an offset so many bytes made from a seed; seed 0 writes zeros.
    Write(u8, u64, u32, u32),
    /// Write at the end so many bytes made from a seed.
    Append(u8, u32, u32),
    /// Set the size.
    Truncate(u8, u64),
    /// fallocate.
    Allocate(u8, u64, u64, Allocation),
    /// Copy from one file's offset to another's.
    Copy(u8, u64, u8, u64, u32),
    /// Set permission bits.
    SetMode(u8, u16),
    /// Set the owner.
    SetOwner(u8, u16, u16),
    /// Set the modification time.
    SetMtime(u8, i32),
    /// Set an extended attribute to so many bytes.
    SetXattr(u8, u8, u32, XattrSetting),
    /// Remove an extended attribute.
    RemoveXattr(u8, u8),
    /// Hold a node open in a slot.
    Open(u8, u8),
    /// Let a slot go.
    Close(u8),
    /// Read a range and compare.
    Read(u8, u64, u32),
    /// Look a name up and compare.
    Lookup(Place),
    /// Make everything durable.
    Sync,
    /// Let the background work.
    Work(bool),
    /// Close and open again.
    Remount,
    /// Sync, drop the volume as a crash does, and open again.
    Crash,
    /// Compare the whole tree.
    Compare,
}

/// Which operations a campaign draws.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// Only what a crash leaves whole or undone: no operation that is split into several.
    pub atomic: bool,
    /// Largest offset and length of ordinary file operations.
    pub largest: u64,
    /// Also offsets up to 16 TiB.
    pub huge: bool,
    /// Remounts among the operations.
    pub remounts: bool,
}

/// Sequences of operations of `profile`.
pub fn sequences(profile: Profile, len: core::ops::Range<usize>) -> impl Strategy<Value = Vec<Op>> {
    vec(op(profile), len)
}

/// One sequence from a seed.
pub fn sequence(profile: Profile, len: usize, seed: u64) -> Vec<Op> {
    let mut runner = runner(seed, Config::default());
    sequences(profile, len..len + 1).new_tree(&mut runner).expect("strategies do not reject").current()
}

/// A proptest runner that starts from `seed`.
pub fn runner(seed: u64, config: Config) -> TestRunner {
    let mut bytes = [0; 32];
    crate::seed::Dice::new(seed).fill(&mut bytes);
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

fn op(profile: Profile) -> BoxedStrategy<Op> {
    let mut choices: Vec<(u32, BoxedStrategy<Op>)> = Vec::new();
    choices.extend(names());
    choices.extend(contents(profile));
    choices.extend(attributes());
    choices.push((5, Just(Op::Sync).boxed()));
    choices.push((3, any::<bool>().prop_map(Op::Work).boxed()));
    if profile.remounts {
        choices.push((2, Just(Op::Remount).boxed()));
        choices.push((2, Just(Op::Crash).boxed()));
        choices.push((3, Just(Op::Compare).boxed()));
    }
    proptest::strategy::Union::new_weighted(choices).boxed()
}

fn place() -> impl Strategy<Value = Place> {
    // The name that is too long, and the longest, are rare.
    let name = prop_oneof![30 => 0u8..6, 2 => Just(6u8), 1 => Just(7u8)];
    (0u8..8, name)
}

fn names() -> Vec<(u32, BoxedStrategy<Op>)> {
    let making = prop_oneof![
        6 => Just(Making::File),
        4 => Just(Making::Directory),
        1 => prop_oneof![Just(1u16), Just(40), Just(2049), Just(4095)].prop_map(Making::Symlink),
        1 => Just(Making::Fifo),
        1 => any::<u32>().prop_map(Making::Device),
    ];
    let mode = prop_oneof![Just(0o644), Just(0o755), Just(0o600), Just(0o2775), Just(0o1777)];
    let renaming =
        prop_oneof![3 => Just(Renaming::Replace), 1 => Just(Renaming::NoReplace), 2 => Just(Renaming::Exchange)];
    vec![
        (14, (place(), making, mode).prop_map(|(place, making, mode)| Op::Make(place, making, mode)).boxed()),
        (1, (any::<u8>(), 0u8..4).prop_map(|(dir, slot)| Op::Tmpfile(dir, slot)).boxed()),
        (4, (any::<u8>(), place()).prop_map(|(node, place)| Op::Link(node, place)).boxed()),
        (6, place().prop_map(Op::Unlink).boxed()),
        (3, place().prop_map(Op::Rmdir).boxed()),
        (9, (place(), place(), renaming).prop_map(|(from, to, mode)| Op::Rename(from, to, mode)).boxed()),
        (2, (any::<u8>(), 0u8..4).prop_map(|(node, slot)| Op::Open(node, slot)).boxed()),
        (2, (0u8..4).prop_map(Op::Close).boxed()),
        (2, place().prop_map(Op::Lookup).boxed()),
    ]
}

fn contents(profile: Profile) -> Vec<(u32, BoxedStrategy<Op>)> {
    let largest = profile.largest;
    let offset = move || offset(profile);
    let len = move || length(largest);
    // Growing by an allocation is done in steps, so it is not for campaigns that crash in the middle.
    let keep_size = if profile.atomic { Just(true).boxed() } else { any::<bool>().boxed() };
    let allocation = prop_oneof![
        2 => keep_size.clone().prop_map(|keep_size| Allocation::Allocate { keep_size }),
        3 => Just(Allocation::Punch),
        2 => keep_size.prop_map(|keep_size| Allocation::Zero { keep_size }),
        1 => Just(Allocation::Shift),
    ];
    let seed = prop_oneof![1 => Just(0u32), 8 => any::<u32>()];
    let mut choices = vec![
        (
            24,
            (any::<u8>(), offset(), len(), seed)
                .prop_map(|(node, offset, len, seed)| Op::Write(node, offset, len, seed))
                .boxed(),
        ),
        (7, (any::<u8>(), offset()).prop_map(|(node, size)| Op::Truncate(node, size)).boxed()),
        (
            6,
            (any::<u8>(), offset(), len(), allocation)
                .prop_map(|(node, offset, len, mode)| Op::Allocate(node, offset, u64::from(len), mode))
                .boxed(),
        ),
        (5, (any::<u8>(), offset(), len()).prop_map(|(node, offset, len)| Op::Read(node, offset, len)).boxed()),
    ];
    if !profile.atomic {
        choices.push((
            4,
            (any::<u8>(), offset(), any::<u8>(), offset(), len())
                .prop_map(|(from, from_offset, to, to_offset, len)| Op::Copy(from, from_offset, to, to_offset, len))
                .boxed(),
        ));
    }
    choices
}

fn attributes() -> Vec<(u32, BoxedStrategy<Op>)> {
    let setting = prop_oneof![
        6 => Just(XattrSetting::Any),
        1 => Just(XattrSetting::Create),
        1 => Just(XattrSetting::Replace),
    ];
    let value = prop_oneof![Just(0u32), 1u32..200, 2040u32..2060, 4090u32..4200, Just(65_536u32), Just(65_537u32),];
    vec![
        (2, (any::<u8>(), 0u16..0o10000).prop_map(|(node, mode)| Op::SetMode(node, mode)).boxed()),
        (2, (any::<u8>(), 0u16..3, 0u16..3).prop_map(|(node, uid, gid)| Op::SetOwner(node, uid, gid)).boxed()),
        (1, (any::<u8>(), any::<i32>()).prop_map(|(node, time)| Op::SetMtime(node, time)).boxed()),
        (
            4,
            (any::<u8>(), 0u8..4, value, setting)
                .prop_map(|(node, name, len, setting)| Op::SetXattr(node, name, len, setting))
                .boxed(),
        ),
        (2, (any::<u8>(), 0u8..4).prop_map(|(node, name)| Op::RemoveXattr(node, name)).boxed()),
    ]
}

/// Offsets near the inline limit, block, chunk and range boundaries, and anywhere.
fn offset(profile: Profile) -> BoxedStrategy<u64> {
    let edges = [0u64, 1, 2048, 4096, 8192, 65_536, 262_144, 524_288, 1 << 20];
    let edges: Vec<u64> = edges.into_iter().filter(|edge| *edge <= profile.largest).collect();
    let near = (proptest::sample::select(edges), -2i64..3).prop_map(|(edge, by)| edge.saturating_add_signed(by));
    let ordinary = prop_oneof![3 => Just(0u64), 5 => near, 4 => 0..profile.largest];
    if profile.huge {
        let huge = (prop_oneof![Just(1u64 << 32), Just(1 << 40), Just(16 << 40)], -5000i64..5000)
            .prop_map(|(edge, by)| edge.saturating_add_signed(by));
        prop_oneof![30 => ordinary, 1 => huge].boxed()
    } else {
        ordinary.boxed()
    }
}

fn length(largest: u64) -> BoxedStrategy<u32> {
    let largest = u32::try_from(largest).expect("campaigns write less than 4 GiB at once");
    prop_oneof![
        3 => 1u32..3000,
        2 => Just(4096u32),
        2 => 4000u32..4200,
        2 => Just(8192u32),
        2 => 1..largest.min(70_000),
        1 => 1..largest,
        1 => Just(0u32),
    ]
    .boxed()
}
