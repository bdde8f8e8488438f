//! A ring full of what looks like groups: mounting it takes a time that is linear in its size.

use sefs::error::Tampered;
use sefs::format::{GROUP_PREFIX_LEN, GroupPrefix, Header};
use sefs::types::Lsn;
use sefs_tests::tree::Tree;

use super::*;

const VOLUME: u64 = 64 << 20;

/// A volume whose log was not closed, its groups, and where its ring lies.
struct Logged {
    world: World,
    disk: Disk,
    tree: Tree,
    ring_start: u64,
    ring_blocks: u64,
    /// The prefixes that stand in the ring, the last one last.
    groups: Vec<GroupPrefix>,
}

impl Logged {
    fn new(seed: u64) -> Logged {
        let (mut stage, disk) = Stage::new(VOLUME, &small_memory(), seed);
        for op in sequence(PROFILE, 60, seed) {
            stage.run(&op).expect("a healthy disk");
            stage.run(&Op::Sync).expect("a healthy disk");
        }
        let (world, tree, disk) = (stage.world.clone(), stage.model.tree(), disk.disk());
        drop(stage);
        let header = Volume::read_header(&Recorder::plain(disk.clone())).expect("a sound image");
        let Header { ring_start, ring_blocks, .. } = header;
        let mut logged = Logged { world, disk, tree, ring_start: ring_start.0, ring_blocks, groups: Vec::new() };
        logged.groups = (0..ring_blocks).filter_map(|index| logged.prefix(index)).collect();
        logged.groups.sort_by_key(|prefix| prefix.lsn);
        assert!(logged.groups.len() > 4);
        logged
    }

    fn prefix(&self, index: u64) -> Option<GroupPrefix> {
        GroupPrefix::decode(self.disk.page(self.ring_start + index).first_chunk::<GROUP_PREFIX_LEN>()?)
    }

    fn last(&self) -> GroupPrefix {
        *self.groups.last().expect("there are groups")
    }

    /// The LSNs from the log's end to a lap behind its first group.
    fn behind(&self) -> std::ops::Range<u64> {
        let end = self.last().lsn.0 + self.last().total_blocks();
        end..self.groups[0].lsn.0 + self.ring_blocks
    }

    /// The disk with false groups at some LSNs, each of a length.
    fn with_claims(&self, claims: impl Iterator<Item = (u64, u64)>) -> Disk {
        let mut disk = self.disk.clone();
        for (lsn, blocks) in claims {
            let sealed_len = u32::try_from(blocks * PAGE as u64 - GROUP_PREFIX_LEN as u64).expect("a ring is shorter");
            let prefix = GroupPrefix { lsn: Lsn(lsn), sealed_len, data_blocks: 0, ..self.last() };
            let mut page = [0xee; PAGE];
            page[..GROUP_PREFIX_LEN].copy_from_slice(&prefix.encode());
            disk.put_page(self.ring_start + lsn % self.ring_blocks, page);
        }
        disk
    }

    /// Mounts, and returns how many pages that read.
    fn mount(&self, disk: &Disk) -> (sefs::error::Result<Volume>, u64) {
        let host = Recorder::plain(disk.clone());
        let opened = self.world.reseeded(1).open(Arc::new(host.clone()), &small_memory());
        let reads = host.page_reads();
        (opened, reads)
    }
}

#[test]
fn a_ring_full_of_false_groups_is_tampering_and_costs_little() {
    let logged = Logged::new(121);
    let (opened, honest) = logged.mount(&logged.disk);
    assert!(walk(&opened.expect("a sound image")).expect("an intact image") == logged.tree);
    let behind = logged.behind();
    assert!(behind.end - behind.start > logged.ring_blocks / 2, "most of the ring is free");
    let longest = logged.with_claims(behind.clone().map(|lsn| (lsn, behind.end - lsn)));
    let (opened, reads) = logged.mount(&longest);
    assert!(matches!(opened, Err(Error::Tampered(Tampered::LogGroup { .. }))), "{:?}", opened.err());
    assert!(reads < honest + 10 * logged.ring_blocks, "{reads} pages read, {honest} without");
    // Claims that reach past the end of what can be are not followed at all.
    let too_long = logged.with_claims(behind.clone().map(|lsn| (lsn, logged.ring_blocks + behind.end - lsn)));
    let (opened, reads) = logged.mount(&too_long);
    opened.expect("nothing there was ever confirmed");
    assert!(reads < honest + logged.ring_blocks, "{reads} pages read, {honest} without");
}

/// What torn groups leave behind is far below the bound.
#[test]
fn false_groups_that_a_crash_could_leave_do_not_keep_a_volume_from_mounting() {
    let logged = Logged::new(122);
    let behind = logged.behind();
    let steps = (behind.start..behind.end - 16).step_by(4);
    let disk = logged.with_claims(steps.map(|lsn| (lsn, 16)));
    let volume = logged.mount(&disk).0.expect("four torn groups over each place");
    assert!(walk(&volume).expect("an intact image") == logged.tree);
}

/// An old group that stands again where a later one broke does not hide those behind it.
#[test]
fn a_break_is_seen_behind_a_group_that_opens() {
    let logged = Logged::new(123);
    let confirmed = &logged.groups[logged.groups.len() - 3];
    for prefix in logged.groups.iter().filter(|prefix| prefix.lsn >= confirmed.lsn).rev().skip(1) {
        let mut disk = logged.disk.clone();
        disk.flip((logged.ring_start + prefix.lsn.0 % logged.ring_blocks) * PAGE as u64 + 100, 1);
        let opened = logged.mount(&disk).0;
        assert!(matches!(opened, Err(Error::Tampered(Tampered::LogGroup { .. }))), "{:?}", opened.err());
    }
}
