//! The tamper campaign (P2, P3, P4): everything that a host can do to one small image, and to two.
//!
//! What a reader may see of the image without an anchor, beside the newest state or an error: a log that ends earlier, if
//! every group from there on was hit. Nothing that is left then tells that there were more, and the host could have had the
//! same state by putting back the ring's blocks as they were before those groups: it is a complete older image, which P2
//! excepts. As long as one group of the tail stands whole it tells what was flushed before it, and the rest must be missed.
//! So one block may cost the last group, a swap of two blocks the last two, a rolled back zone any number.

use std::collections::BTreeSet;
use std::sync::Arc;

use sefs::anchor::AnchorPolicy;
use sefs::vfs::FormatOptions;

use crate::attack::Attack;
use crate::campaign::{Campaign, Failure, hostile};
use crate::disk::{Disk, PAGE};
use crate::history::History;
use crate::image::{HEADER_PAGES, Image, SLOT_PAGES, SMALL_SIZE, word};
use crate::op::{Op, Profile, sequence};
use crate::recorder::{Event, Recorder};
use crate::seed::Dice;
use crate::stage::Stage;
use crate::tree::Tree;
use crate::world::{World, format_options, small_memory};

const PROFILE: Profile = Profile { atomic: true, largest: 20_000, huge: false, remounts: false };

/// Changes an image in every way, or in one of `thin` of each kind.
pub fn run(campaign: &mut Campaign, thin: u64) -> Result<(), Failure> {
    let mut dice = Dice::new(campaign.seed);
    for policy in [None, Some(AnchorPolicy::Strict)] {
        let (image, history) = Image::small(campaign.world(dice.next()), policy);
        let mut tampering = Tampering::new(campaign, &image, &history, thin, dice.next());
        tampering.blocks()?;
        tampering.swaps()?;
        tampering.versions()?;
        tampering.zones()?;
        tampering.strangers()?;
        tampering.forks()?;
        // The anchor's part is in slots and log, whose blocks are all dealt with above: here one byte in eight will do.
        tampering.thin = if policy.is_some() { thin * 8 } else { thin };
        tampering.attack.used_one_in = 64;
        tampering.bytes()?;
        hostile::run(campaign, &image, thin, dice.next())?;
    }
    campaign.check_ledger()
}

struct Tampering<'a> {
    campaign: &'a mut Campaign,
    image: &'a Image,
    history: &'a History,
    attack: Attack<'a>,
    pages: Vec<u64>,
    thin: u64,
    dice: Dice,
    seed: u64,
}

impl<'a> Tampering<'a> {
    fn new(campaign: &'a mut Campaign, image: &'a Image, history: &'a History, thin: u64, seed: u64) -> Tampering<'a> {
        let mut attack = Attack::new(image, seed);
        attack.used_one_in = 12;
        let pages = image.pages();
        Tampering { campaign, image, history, attack, pages, thin, dice: Dice::new(seed), seed }
    }

    /// One case: `change` is made to a copy of the image, unless it is thinned out or the campaign was told to stop.
    fn case(
        &mut self,
        kind: &'static str,
        what: impl FnOnce() -> String,
        change: impl FnOnce(&mut Disk),
    ) -> Result<(), Failure> {
        if !self.dice.one_in(self.thin) || !self.campaign.goes_on() {
            return Ok(());
        }
        let mut disk = self.image.disk.clone();
        change(&mut disk);
        self.campaign.count(kind, 1);
        let refused = self.attack.refused;
        let what = what();
        let outcome = self.attack.try_judge(&what, &disk);
        self.campaign.count("refused at open", (self.attack.refused - refused) as u64);
        outcome.map_err(|wrong| {
            let anchored = if self.image.anchor.is_some() { "anchored" } else { "unanchored" };
            Failure { seed: self.campaign.seed, what: wrong, sequence: vec![format!("{anchored} image: {what}")] }
        })
    }

    fn bytes(&mut self) -> Result<(), Failure> {
        for page in self.pages.clone() {
            for offset in 0..PAGE as u64 {
                let mask = 1 << self.dice.below(8);
                let what = || format!("page {page}, byte {offset}, bit mask {mask:#x}");
                self.case("bytes flipped", what, |disk| disk.flip(page * PAGE as u64 + offset, mask))?;
            }
        }
        Ok(())
    }

    fn blocks(&mut self) -> Result<(), Failure> {
        for page in self.pages.clone() {
            let mut garbage = [0; PAGE];
            self.dice.fill(&mut garbage);
            for (name, bytes) in [("zeros", [0; PAGE]), ("ones", [0xff; PAGE]), ("garbage", garbage)] {
                let what = || format!("page {page} is {name}");
                self.case("blocks replaced", what, |disk| disk.put_page(page, bytes))?;
            }
        }
        Ok(())
    }

    fn swaps(&mut self) -> Result<(), Failure> {
        let (pages, image) = (self.pages.clone(), self.image);
        for (number, left) in pages.iter().enumerate() {
            for right in &pages[number + 1..] {
                let what = || format!("pages {left} and {right} swapped");
                self.attack.also = image.cut_short(self.history, &[*left, *right]);
                self.case("blocks swapped", what, |disk| {
                    disk.put_page(*left, image.disk.page(*right));
                    disk.put_page(*right, image.disk.page(*left));
                })?;
            }
        }
        self.attack.also.clear();
        Ok(())
    }

    /// Every older version of each block, in its own place and in another.
    fn versions(&mut self) -> Result<(), Failure> {
        let (image, pages) = (self.image, self.pages.clone());
        for (page, versions) in image.recording.versions() {
            let mut tried = BTreeSet::new();
            for (age, bytes) in versions.iter().enumerate() {
                if *bytes == image.disk.page(page) || !tried.insert(*bytes) {
                    continue;
                }
                let what = || format!("page {page} back at its version {age}");
                self.case("older versions", what, |disk| disk.put_page(page, *bytes))?;
                let elsewhere = *self.dice.pick(&pages);
                let what = || format!("page {elsewhere} is page {page}'s version {age}");
                self.case("older versions elsewhere", what, |disk| disk.put_page(elsewhere, *bytes))?;
            }
        }
        Ok(())
    }

    /// Header, slots, log and everything else go back to what they were at each flush, singly and together. Without an
    /// anchor that may be a complete older image in disguise, or a log that ends earlier: then one of the states of that
    /// time may be seen, whole. With a strict one only the newest may.
    fn zones(&mut self) -> Result<(), Failure> {
        let (recording, image) = (&self.image.recording, self.image);
        if image.anchor.is_none() {
            self.attack.also = self.history.states.clone();
        }
        for (position, event) in recording.events.iter().enumerate() {
            if !matches!(event, Event::Flush { .. }) {
                continue;
            }
            let old = recording.prefix(position + 1);
            for zones in 1..16u32 {
                let what = || format!("{} back at event {position}", zone_names(zones));
                self.case("zones rolled back", what, |disk| roll_back(disk, &old, zones))?;
            }
        }
        self.attack.also.clear();
        Ok(())
    }

    /// Blocks of another volume under the same key.
    fn strangers(&mut self) -> Result<(), Failure> {
        let other = self.campaign.world(self.seed ^ 1);
        let host = Recorder::plain(Disk::new(SMALL_SIZE));
        let format = FormatOptions { volume_id: *b"another volume!!", ..format_options(SMALL_SIZE) };
        other.format_on(Arc::new(host.clone()), &format).expect("formatting an empty disk");
        let mut stage = Stage::on(other, Arc::new(host.clone()), &small_memory()).expect("a fresh volume");
        live(&mut stage, self.seed);
        drop(stage);
        self.mix("blocks of another volume", &host.disk())
    }

    /// The host lets a second machine go on from each moment of the image's history, and mixes what that one wrote into it.
    /// Without an anchor the twin's groups are as good as our own that nothing confirmed; with one, they are refused.
    fn forks(&mut self) -> Result<(), Failure> {
        for (number, span) in self.history.spans.iter().enumerate().filter(|(_, span)| span.durable) {
            let (recording, image) = (&self.image.recording, self.image);
            let world = self.campaign.world(self.dice.next());
            let host = Recorder::plain(recording.prefix(span.end));
            let Some(states) = twin(&world, image, &host, self.dice.next()) else { continue };
            if image.anchor.is_none() {
                self.attack.also = [states, self.history.states.clone()].concat();
            }
            let twin = host.disk();
            for zones in 1..16u32 {
                let what = || format!("{} of a twin that left after operation {number}", zone_names(zones));
                self.case("zones of a fork", what, |disk| roll_back(disk, &twin, zones))?;
            }
            self.mix("blocks of a fork", &twin)?;
            self.attack.also.clear();
        }
        Ok(())
    }

    /// Each block of another image in its place and in another.
    fn mix(&mut self, kind: &'static str, other: &Disk) -> Result<(), Failure> {
        let pages: BTreeSet<u64> = self.pages.iter().copied().chain(other.used_pages()).collect();
        for page in pages {
            let bytes = other.page(page);
            if bytes != self.image.disk.page(page) {
                self.case(kind, || format!("{kind}: page {page}"), |disk| disk.put_page(page, bytes))?;
            }
            let to = *self.dice.pick(&self.pages);
            self.case(kind, || format!("{kind}: page {page} in place of {to}"), |disk| disk.put_page(to, bytes))?;
        }
        Ok(())
    }
}

/// Goes on from an image with other operations; the states on the way. None if the anchor lets nobody mount it.
fn twin(world: &World, image: &Image, host: &Recorder, seed: u64) -> Option<Vec<Tree>> {
    let unanchored = Image {
        world: world.clone(),
        disk: host.disk(),
        recording: image.recording.clone(),
        expected: Tree::default(),
        earlier: Vec::new(),
        anchor: None,
    };
    let volume = match image.anchor {
        // The twin's machine has an anchor of its own that was set back too.
        Some(_) => return anchored_twin(world, host, seed),
        None => unanchored.open_in(world, host.clone(), false).ok()?,
    };
    Some(scribble(&volume, seed))
}

fn anchored_twin(world: &World, host: &Recorder, seed: u64) -> Option<Vec<Tree>> {
    let options = sefs::vfs::OpenOptions { abandon_anchor: true, ..small_memory() };
    let volume = world.open(Arc::new(host.clone()), &options).ok()?;
    Some(scribble(&volume, seed))
}

/// A few commits, and the state after each operation.
fn scribble(volume: &sefs::vfs::Volume, seed: u64) -> Vec<Tree> {
    use crate::walk::walk;
    let root = sefs::vfs::Caller::root();
    let mut states = vec![walk(volume).expect("a healthy disk")];
    for number in 0..3 {
        let name = format!("twin {number}");
        let file = sefs::vfs::FileKind::Regular;
        let ino = crate::image::make(volume, sefs::types::InodeNo::ROOT, &name, file);
        states.push(walk(volume).expect("a healthy disk"));
        let data = crate::stage::filling(seed as u32 | 1, 3000 * (number + 1));
        volume.write(&root, ino, 0, &data, sefs::vfs::WriteMode::Direct).expect("a healthy disk");
        states.push(walk(volume).expect("a healthy disk"));
        volume.sync().expect("a healthy disk");
    }
    states
}

fn live(stage: &mut Stage, seed: u64) {
    for (number, op) in sequence(PROFILE, 25, seed).into_iter().enumerate() {
        stage.run(&op).expect("a healthy disk");
        if number % 5 == 4 {
            stage.run(&Op::Sync).expect("a healthy disk");
        }
    }
    stage.run(&Op::Work(true)).expect("a healthy disk");
}

const ZONES: [&str; 4] = ["header", "slots", "log", "trees, bitmaps and data"];

fn zone_names(zones: u32) -> String {
    let names: Vec<&str> = (0..4).filter(|zone| zones >> zone & 1 == 1).map(|zone| ZONES[zone]).collect();
    names.join(" and ")
}

/// Replaces the zones of a bit mask, in the order of [`ZONES`].
fn roll_back(disk: &mut Disk, old: &Disk, zones: u32) {
    let (ring, ring_pages) = (word(disk, 56), word(disk, 64));
    let total = SMALL_SIZE / PAGE as u64;
    for page in 0..total {
        let zone = match page {
            _ if page < HEADER_PAGES || page >= total - HEADER_PAGES => 0,
            _ if SLOT_PAGES.contains(&page) => 1,
            _ if (ring..ring + ring_pages).contains(&page) => 2,
            _ => 3,
        };
        if zones >> zone & 1 == 1 {
            disk.put_page(page, old.page(page));
        }
    }
}
