//! Hosts that are hostile while a volume is opened and read: each answer in turn is another than it should be.

use std::ops::Range;
use std::sync::Arc;

use sefs::backend::{Backend, BackendError, Batch, Ticket};
use sefs::error::Error;
use sefs::types::InodeNo;

use crate::attack::{blames_the_host, consistent};
use crate::campaign::{Campaign, Failure, caught};
use crate::disk::PAGE;
use crate::image::{HEADER_PAGES, Image, SLOT_PAGES, SMALL_SIZE};
use crate::recorder::Recorder;
use crate::seed::Dice;
use crate::simulator::{FAULTS, Request, Simulator, Strike};
use crate::walk::walk_all;

/// Strikes each request of a mount and a full read with each fault that fits, once and for ever, and offers the image with
/// single things missing.
pub fn run(campaign: &mut Campaign, image: &Image, thin: u64, seed: u64) -> Result<(), Failure> {
    let mut dice = Dice::new(seed);
    let healthy = Simulator::new(Recorder::plain(image.disk.clone()), &[], 0);
    let healthy = Arc::new(healthy);
    let volume = image.open_in(&image.world, Shared(healthy.clone()), true).expect("an intact image");
    assert!(walk_all(&volume).tree == image.expected, "an intact image");
    drop(volume);
    for fault in FAULTS.into_iter().filter(|fault| matches!(fault.request(), Request::Read | Request::Len)) {
        for after in 0..healthy.requests(fault.request()) {
            for for_ever in [false, true] {
                if !campaign.goes_on() {
                    return Ok(());
                }
                if dice.one_in(thin) {
                    campaign.count("hostile answers", 1);
                    let strike = Strike { fault, after, for_ever };
                    let outcome = caught(|| open_and_read(image, strike, dice.next()));
                    outcome.map_err(|what| Failure { seed, what, sequence: vec![strike.to_string()] })?;
                }
            }
        }
    }
    slots(image).map_err(|what| Failure { seed, what, sequence: vec!["slots and headers zeroed".into()] })
}

fn open_and_read(image: &Image, strike: Strike, seed: u64) -> Result<(), String> {
    let disk = Recorder::plain(image.disk.clone());
    disk.limit_reads(100_000);
    let host = Arc::new(Simulator::new(disk.clone(), &[strike], seed));
    let versions = image.recording.versions();
    host.remember(
        versions.into_iter().map(|(page, versions)| (page, versions[versions.len().saturating_sub(2)])).collect(),
    );
    let fair =
        |error: &Error| blames_the_host(error) || (strike.fault.is_admitted() && matches!(error, Error::Backend(_)));
    let volume = match image.open_in(&image.world, Shared(host.clone()), true) {
        Ok(volume) => volume,
        Err(error) if fair(&error) || matches!(error, Error::Backend(_)) => return Ok(()),
        Err(error) => return Err(format!("open: {error} ({error:?})")),
    };
    let found = walk_all(&volume);
    if disk.read_limit_passed() {
        return Err("reads without end".into());
    }
    if !found.violations.is_empty() {
        return Err(format!("{:?}", found.violations));
    }
    if let Some((path, error)) = found.errors.iter().find(|(_, error)| !fair(error)) {
        return Err(format!("at {}: {error} ({error:?})", String::from_utf8_lossy(path)));
    }
    let mut states = std::iter::once(&image.expected).chain(&image.earlier);
    if !states.any(|state| consistent(&found, state).is_ok()) {
        return Err(consistent(&found, &image.expected).err().unwrap_or_default());
    }
    // A single wrong answer is not remembered: nothing of it is left in a cache.
    let wrong_once = !strike.for_ever && found.errors.iter().any(|(path, _)| path.is_empty());
    if wrong_once && volume.attr(InodeNo::ROOT).is_err() {
        return Err("one wrong answer is remembered".into());
    }
    Ok(())
}

/// Without the header, without its replica, without either slot: the same state. Without both of either: refused. A strict
/// anchor names the newest slot, and without that one nothing shows that the state is the newest: refused too.
fn slots(image: &Image) -> Result<(), String> {
    let total = SMALL_SIZE / PAGE as u64;
    let (header, replica) = (0..HEADER_PAGES, total - HEADER_PAGES..total);
    let (first, second) = (SLOT_PAGES[0]..SLOT_PAGES[0] + 1, SLOT_PAGES[1]..SLOT_PAGES[1] + 1);
    let without = |zones: &[Range<u64>]| {
        let mut disk = image.disk.clone();
        zones.iter().cloned().flatten().for_each(|page| disk.put_page(page, [0; PAGE]));
        image.open(&Recorder::plain(disk), true).map(|volume| walk_all(&volume))
    };
    let single = [&header, &replica, &first, &second].map(|zone| vec![zone.clone()]);
    let across = [vec![header.clone(), first.clone()], vec![replica.clone(), second.clone()]];
    let mut opened = 0;
    for zones in single.iter().chain(&across) {
        match without(zones) {
            Ok(found) if found.errors.is_empty() && found.tree == image.expected => opened += 1,
            Ok(_) => return Err(format!("without {zones:?}: another state")),
            Err(Error::RolledBack(_)) if image.anchor.is_some() => {}
            Err(error) => return Err(format!("without {zones:?}: {error}")),
        }
    }
    if opened < 4 {
        return Err(format!("only {opened} of 6 damaged images open"));
    }
    for zones in [[header, replica], [first, second]] {
        match without(&zones) {
            Err(error) if blames_the_host(&error) => {}
            other => return Err(format!("without {zones:?}: {:?}", other.map(|found| found.errors))),
        }
    }
    Ok(())
}

/// A backend that others keep an eye on.
pub struct Shared(pub Arc<Simulator>);

impl Backend for Shared {
    fn submit(&self, batch: Batch) -> Result<Ticket, BackendError> {
        self.0.submit(batch)
    }

    fn wait(&self, ticket: Ticket) -> Result<Batch, BackendError> {
        self.0.wait(ticket)
    }

    fn flush(&self) -> Result<(), BackendError> {
        self.0.flush()
    }

    fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), BackendError> {
        self.0.discard(offset_bytes, len_bytes)
    }

    fn len_bytes(&self) -> Result<u64, BackendError> {
        self.0.len_bytes()
    }

    fn grow(&self, len_bytes: u64) -> Result<(), BackendError> {
        self.0.grow(len_bytes)
    }
}
