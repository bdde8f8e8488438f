use alloc::boxed::Box;
use alloc::vec;
use std::collections::BTreeSet;

use super::epochs::{DEFAULT_EPOCH_LIMIT, MAX_EXPANDED, NonceSource};
use super::*;
use crate::error::Tampered;
use crate::format::{LogRecord, MAX_EPOCHS};
use crate::keys::SealedEpochPage;
use crate::keys::tests::{CountingRng, FailingRng, verified, volume_key};
use crate::suite::{AuthFailed, RustCrypto, SecretKey};
use crate::sync::Mutex;
use crate::types::{BlockAddr, Generation};

fn sealer_of(volume: u8, rng: Arc<dyn Rng>) -> Sealer {
    Sealer::new(Arc::new(RustCrypto), rng, &volume_key(), &verified(volume))
}

fn sealer() -> Sealer {
    let sealer = sealer_of(1, Arc::new(CountingRng::default()));
    sealer.new_epoch().unwrap();
    sealer
}

fn loc(epoch: EpochId, nonce: Nonce, tag: Tag) -> BlockLoc {
    BlockLoc { source: 0, epoch, addr: BlockAddr(100), birth: Generation(1), nonce, proof: tag.into() }
}

fn reference(proof: &Sealed) -> BlockRef {
    let &Sealed { epoch, nonce, tag } = proof;
    BlockRef { source: 0, epoch, addr: BlockAddr(4), nonce, birth: Generation(1), proof: tag.into(), len_bytes: 16_384 }
}

fn alloc_entry(proof: &Sealed) -> AllocEntry {
    let &Sealed { epoch, nonce, tag } = proof;
    AllocEntry { present: true, epoch, nonce, tag, ..AllocEntry::default() }
}

fn place(epoch: EpochId) -> GroupPlace {
    GroupPlace { lsn: Lsn(5), previous_tag: [6; 16], epoch, data_blocks: 2 }
}

/// Seals a single block: a run of one.
fn seal_block(sealer: &Sealer, plain: &[u8; BLOCK_SIZE], out: &mut [u8]) -> Result<Sealed, SealFailure> {
    let run = sealer.seal_data(plain.chunks_exact(BLOCK_SIZE), out)?;
    Ok(Sealed { epoch: run.epoch, nonce: run.nonce, tag: run.tags[0] })
}

fn counter(nonce: &Nonce) -> u32 {
    u32::from_be_bytes(nonce[8..].try_into().unwrap())
}

/// Adds the epochs of one sealer to another, as a reopening does.
fn reopened(from: &Sealer) -> Sealer {
    let to = sealer_of(1, Arc::new(CountingRng::default()));
    for (index, page) in (0..).zip(pages(from, 1, &[]).unwrap()) {
        to.open_epoch_page(index, &page.bytes, &page.tag, Generation(1), true).unwrap();
    }
    to
}

fn pages(sealer: &Sealer, generation: u64, left_out: &[EpochId]) -> error::Result<Vec<SealedEpochPage>> {
    let left_out = left_out.iter().copied().collect();
    let most = sealer.epoch_page_count(&left_out);
    sealer.seal_epoch_pages(Generation(generation), &left_out, most, EpochId(0)).map(|(pages, _)| pages)
}

#[test]
fn runs_of_data_open_block_by_block() {
    let sealer = sealer();
    let plain: Vec<u8> = (0u8..3).flat_map(|block| [block; BLOCK_SIZE]).collect();
    let mut out = vec![0; plain.len()];
    let run = sealer.seal_data(plain.chunks_exact(BLOCK_SIZE), &mut out).unwrap();
    assert_eq!(run.tags.len(), 3);
    for (index, (sealed, plain)) in (0..).zip(out.chunks_exact(BLOCK_SIZE).zip(plain.chunks_exact(BLOCK_SIZE))) {
        let loc = loc(run.epoch, nonce_at(&run.nonce, index).unwrap(), run.tags[usize::try_from(index).unwrap()]);
        let mut buf: [u8; BLOCK_SIZE] = sealed.try_into().unwrap();
        assert_ne!(&buf[..], plain);
        assert_eq!(sealer.open_data(&loc, &mut buf), Ok(()));
        assert_eq!(&buf[..], plain);
        let mut buf: [u8; BLOCK_SIZE] = sealed.try_into().unwrap();
        buf[17] ^= 1;
        assert_eq!(sealer.open_data(&loc, &mut buf), Err(OpenFailure::Auth));
        let mut buf: [u8; BLOCK_SIZE] = sealed.try_into().unwrap();
        let unknown = BlockLoc { epoch: EpochId(9), ..loc };
        assert_eq!(sealer.open_data(&unknown, &mut buf), Err(OpenFailure::UnknownEpoch(EpochId(9))));
    }
}

#[test]
fn a_run_tells_which_block_does_not_open() {
    let sealer = sealer();
    let plain: Vec<u8> = (1u8..=3).flat_map(|block| [block; BLOCK_SIZE]).collect();
    let mut host = vec![0; plain.len()];
    let run = sealer.seal_data(plain.chunks_exact(BLOCK_SIZE), &mut host).unwrap();
    let locs: Vec<BlockLoc> =
        (0..).zip(&run.tags).map(|(index, tag)| loc(run.epoch, nonce_at(&run.nonce, index).unwrap(), *tag)).collect();
    let mut out = vec![9; plain.len()];
    assert_eq!(sealer.open_run(&locs, &host, &mut out), Ok(()));
    assert_eq!(out, plain);
    host[BLOCK_SIZE + 5] ^= 1;
    assert_eq!(sealer.open_run(&locs, &host, &mut out), Err((1, OpenFailure::Auth)));
    assert_eq!(out[BLOCK_SIZE..2 * BLOCK_SIZE], [0; BLOCK_SIZE], "nothing of what did not authenticate is left");
    host[BLOCK_SIZE + 5] ^= 1;
    let mut unknown = locs.clone();
    unknown[2].epoch = EpochId(9);
    assert_eq!(sealer.open_run(&unknown, &host, &mut out), Err((2, OpenFailure::UnknownEpoch(EpochId(9)))));
}

/// RustCrypto, and where it was told to work.
#[derive(Default, Clone)]
struct Watching(Arc<Mutex<Vec<core::ops::Range<usize>>>>);

impl Watching {
    fn note(&self, own: &[u8]) {
        let start = own.as_ptr().addr();
        self.0.lock().push(start..start + own.len());
    }
}

struct WatchingAead(Watching, Box<dyn Aead>);

impl Aead for WatchingAead {
    fn seal(&self, nonce: &Nonce, associated: &[u8], plain: &[u8], own: &mut [u8]) -> Tag {
        self.0.note(own);
        self.1.seal(nonce, associated, plain, own)
    }

    fn open(&self, nonce: &Nonce, associated: &[u8], buf: &mut [u8], tag: &Tag) -> Result<(), AuthFailed> {
        self.0.note(buf);
        self.1.open(nonce, associated, buf, tag)
    }
}

impl Suite for Watching {
    fn aead(&self, key: &SecretKey) -> Box<dyn Aead> {
        Box::new(WatchingAead(self.clone(), RustCrypto.aead(key)))
    }
    fn derive(&self, salt: &[u8], secret: &SecretKey, info: &[&[u8]]) -> SecretKey {
        RustCrypto.derive(salt, secret, info)
    }
    fn mac(&self, key: &SecretKey, data: &[u8]) -> [u8; 32] {
        RustCrypto.mac(key, data)
    }
    fn verify_mac(&self, key: &SecretKey, data: &[u8], expected: &[u8; 32]) -> Result<(), AuthFailed> {
        RustCrypto.verify_mac(key, data, expected)
    }
    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        RustCrypto.sha256(parts)
    }
}

/// Tags are computed over ciphertext that the host cannot change meanwhile, and verified over a copy that it cannot change.
#[test]
fn no_cipher_works_in_memory_of_the_host() {
    let watching = Watching::default();
    let sealer = Sealer::new(Arc::new(watching.clone()), Arc::new(CountingRng::default()), &volume_key(), &verified(1));
    sealer.new_epoch().unwrap();
    let plain = vec![7; 3 * BLOCK_SIZE];
    let mut host = vec![0; plain.len()];
    let run = sealer.seal_data(plain.chunks_exact(BLOCK_SIZE), &mut host).unwrap();
    let locs: Vec<BlockLoc> =
        (0..).zip(&run.tags).map(|(index, tag)| loc(run.epoch, nonce_at(&run.nonce, index).unwrap(), *tag)).collect();
    sealer.open_run(&locs, &host, &mut vec![0; plain.len()]).unwrap();
    let seen = watching.0.lock();
    assert_eq!(seen.len(), 6);
    let host = host.as_ptr().addr()..host.as_ptr().addr() + host.len();
    let inside = seen.iter().filter(|own| own.start < host.end && host.start < own.end);
    assert_eq!(inside.count(), 0, "worked in what the host sees");
}

/// Each class and each level has its own associated data, so nothing opens as something else, whatever its parent says.
#[test]
fn a_block_opens_only_as_what_it_was_sealed_as() {
    let sealer = sealer();
    let plain = [7; BLOCK_SIZE];
    let mut sealed = [[0; BLOCK_SIZE]; 4];
    let proofs = [
        seal_block(&sealer, &plain, &mut sealed[0]).unwrap(),
        sealer.seal_node(0, &plain, &mut sealed[1]).unwrap(),
        sealer.seal_node(1, &plain, &mut sealed[2]).unwrap(),
        sealer.seal_alloc_page(0, &plain, &mut sealed[3]).unwrap(),
    ];
    for (index, (proof, sealed)) in proofs.iter().zip(sealed).enumerate() {
        let opened = [
            sealer.open_data(&loc(proof.epoch, proof.nonce, proof.tag), &mut sealed.clone()),
            sealer.open_node(0, &reference(proof), &mut sealed.clone()),
            sealer.open_node(1, &reference(proof), &mut sealed.clone()),
            sealer.open_alloc_page(0, &alloc_entry(proof), &mut sealed.clone()),
        ];
        for (other, opened) in opened.into_iter().enumerate() {
            assert_eq!(opened, if index == other { Ok(()) } else { Err(OpenFailure::Auth) }, "{index} as {other}");
        }
    }
}

#[test]
fn blocks_of_another_volume_do_not_open_even_under_the_same_secret() {
    let (ours, other) = (sealer(), sealer_of(2, Arc::new(CountingRng::default())));
    let Some(LogRecord::NewEpoch { id, secret }) = ours.new_epoch_record(EpochId(1)) else { panic!("no record") };
    other.add_epoch(id, secret, 0).unwrap();
    let mut block = [0; BLOCK_SIZE];
    let proof = seal_block(&ours, &[1; BLOCK_SIZE], &mut block).unwrap();
    let loc = loc(proof.epoch, proof.nonce, proof.tag);
    assert_eq!(other.open_data(&loc, &mut block.clone()), Err(OpenFailure::Auth));
    assert_eq!(ours.open_data(&loc, &mut block), Ok(()));
}

#[test]
fn groups_open_only_with_their_own_prefix() {
    let sealer = sealer();
    let body = vec![3; 5000];
    let group = sealer.seal_group(&place(EpochId(1)), &body).unwrap();
    assert_eq!(group.bytes.len(), 2 * BLOCK_SIZE);
    let (head, rest) = group.bytes.split_first_chunk::<GROUP_PREFIX_LEN>().unwrap();
    assert_eq!(GroupPrefix::decode(head), Some(group.prefix));
    let (sealed, padding) = rest.split_at(body.len());
    assert!(padding.iter().all(|&byte| byte == 0));
    assert_eq!(sealer.open_group(&group.prefix, sealed).as_deref(), Some(&body));
    let changes: [fn(&mut GroupPrefix); 7] = [
        |prefix| prefix.lsn.0 += 1,
        |prefix| prefix.previous_tag[0] ^= 1,
        |prefix| prefix.sealed_len -= 1,
        |prefix| prefix.epoch.0 += 1,
        |prefix| prefix.data_blocks += 1,
        |prefix| prefix.nonce[0] ^= 1,
        |prefix| prefix.tag[0] ^= 1,
    ];
    for (index, change) in changes.iter().enumerate() {
        let mut prefix = group.prefix;
        change(&mut prefix);
        let len = usize::try_from(prefix.sealed_len).unwrap();
        assert_eq!(sealer.open_group(&prefix, &sealed[..len]), None, "change {index}");
    }
    assert_eq!(sealer.open_group(&group.prefix, &sealed[..4999]), None);
}

#[test]
fn no_nonce_of_an_epoch_is_used_twice_whatever_is_sealed() {
    let sealer = sealer();
    let (plain, mut out) = (vec![0; 4 * BLOCK_SIZE], vec![0; 4 * BLOCK_SIZE]);
    let mut counters = vec![];
    for _ in 0..5 {
        let run = sealer.seal_data(plain.chunks_exact(BLOCK_SIZE), &mut out).unwrap();
        counters.extend((0..4).map(|index| counter(&nonce_at(&run.nonce, index).unwrap())));
        counters.push(counter(&seal_block(&sealer, &[0; BLOCK_SIZE], &mut out[..BLOCK_SIZE]).unwrap().nonce));
        counters.push(counter(&sealer.seal_node(0, &plain, &mut out).unwrap().nonce));
        counters.push(counter(&sealer.seal_alloc_page(1, &plain, &mut out).unwrap().nonce));
        counters.push(counter(&sealer.seal_group(&place(EpochId(1)), &plain).unwrap().prefix.nonce));
    }
    assert_eq!(counters, (0..40).collect::<Vec<_>>());
}

#[test]
fn threads_share_the_counter() {
    let sealer = Arc::new(sealer());
    let threads = [0; 4].map(|_| {
        let sealer = sealer.clone();
        std::thread::spawn(move || {
            let mut out = [0; BLOCK_SIZE];
            let mut seal = || counter(&seal_block(&sealer, &[0; BLOCK_SIZE], &mut out).unwrap().nonce);
            (0..50).map(|_| seal()).collect::<Vec<_>>()
        })
    });
    let counters: BTreeSet<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    assert_eq!(counters.len(), 200);
}

#[test]
fn an_epoch_that_was_read_never_seals() {
    let first = sealer();
    let mut block = [0; BLOCK_SIZE];
    let proof = seal_block(&first, &[1; BLOCK_SIZE], &mut block).unwrap();
    let second = reopened(&first);
    assert_eq!(second.current(), None);
    assert_eq!(seal_block(&second, &[1; BLOCK_SIZE], &mut [0; BLOCK_SIZE]), Err(SealFailure::NoEpoch));
    assert_eq!(second.seal_group(&place(EpochId(1)), &[]).err(), Some(SealFailure::NoEpoch));
    assert!(!second.exhausted());
    assert_eq!(second.open_data(&loc(proof.epoch, proof.nonce, proof.tag), &mut block), Ok(()));
    assert_eq!(block, [1; BLOCK_SIZE]);
    assert_eq!(second.new_epoch(), Ok(EpochId(2)), "numbers rise over reopenings");
    assert!(seal_block(&second, &[1; BLOCK_SIZE], &mut block).is_ok());
}

#[test]
fn an_epoch_ends_at_its_limit_and_says_so_before() {
    let sealer = sealer();
    sealer.set_epoch_limit(100);
    let (plain, mut out) = (vec![0; 74 * BLOCK_SIZE], vec![0; 74 * BLOCK_SIZE]);
    sealer.seal_data(plain.chunks_exact(BLOCK_SIZE), &mut out).unwrap();
    assert!(!sealer.exhausted());
    seal_block(&sealer, &[0; BLOCK_SIZE], &mut out[..BLOCK_SIZE]).unwrap();
    assert!(sealer.exhausted());
    assert_eq!(sealer.nonces_left(), Some((25, 100)));
    let twenty_six = 26 * BLOCK_SIZE;
    let refused = sealer.seal_data(plain[..twenty_six].chunks_exact(BLOCK_SIZE), &mut out[..twenty_six]);
    assert_eq!(refused, Err(SealFailure::Exhausted));
    let twenty_five = 25 * BLOCK_SIZE;
    let last = sealer.seal_data(plain[..twenty_five].chunks_exact(BLOCK_SIZE), &mut out[..twenty_five]).unwrap();
    assert_eq!(counter(&nonce_at(&last.nonce, 24).unwrap()), 99);
    assert_eq!(sealer.seal_group(&place(EpochId(1)), &[]).err(), Some(SealFailure::Exhausted));
    assert_eq!(sealer.new_epoch(), Ok(EpochId(2)));
    assert!(!sealer.exhausted());
    assert_eq!(seal_block(&sealer, &[0; BLOCK_SIZE], &mut out[..BLOCK_SIZE]).unwrap().epoch, EpochId(2));
}

#[test]
fn counters_do_not_wrap_at_the_largest_limit() {
    let (source, rng) = (NonceSource { next: Mutex::new((1 << 32) - 2) }, CountingRng::default());
    assert_eq!(source.burn(3, DEFAULT_EPOCH_LIMIT, &rng), Err(SealFailure::Exhausted));
    assert_eq!(counter(&source.burn(2, DEFAULT_EPOCH_LIMIT, &rng).unwrap()), u32::MAX - 1);
    assert_eq!(source.burn(1, DEFAULT_EPOCH_LIMIT, &rng), Err(SealFailure::Exhausted));
    assert_eq!(source.burn(u64::MAX, DEFAULT_EPOCH_LIMIT, &rng), Err(SealFailure::Exhausted));
}

#[test]
fn without_random_bytes_nothing_is_sealed() {
    let sealer = sealer_of(1, Arc::new(FailingRng));
    assert_eq!(sealer.new_epoch(), Err(SealFailure::Rng));
    assert_eq!(sealer.current(), None);
    assert_eq!(NonceSource::default().burn(1, 1, &FailingRng), Err(SealFailure::Rng));
    assert_eq!(Error::from(SealFailure::Rng), Error::Rng);
}

#[test]
fn a_retiring_epoch_still_seals_the_group_that_names_its_successor() {
    let sealer = sealer();
    assert_eq!(sealer.new_epoch(), Ok(EpochId(2)));
    let group = sealer.seal_group(&place(EpochId(1)), b"records").unwrap();
    assert_eq!(group.prefix.epoch, EpochId(1));
    let record = sealer.new_epoch_record(EpochId(2));
    assert!(matches!(record, Some(LogRecord::NewEpoch { id: EpochId(2), .. })));
    assert!(sealer.new_epoch_record(EpochId(3)).is_none());
}

/// Epochs 1 to 4 of an earlier mount and 5 of this one.
fn aged(live: [u64; 4]) -> Sealer {
    let sealer = sealer_of(1, Arc::new(CountingRng::default()));
    for (id, live) in (1..).zip(live) {
        sealer.add_epoch(EpochId(id), SecretKey::new([1; 32]), live).unwrap();
    }
    assert_eq!(sealer.new_epoch(), Ok(EpochId(5)));
    sealer
}

fn dead(sealer: &Sealer, generation: u64, needed: u32) -> Vec<EpochId> {
    sealer.dead_epochs(Generation(generation), EpochId(needed)).into_iter().collect()
}

#[test]
fn epochs_are_dropped_when_nothing_needs_them() {
    let sealer = aged([5, 0, 0, 7]);
    assert_eq!(dead(&sealer, 9, 9), [], "no checkpoint tells yet that 2 and 3 are dead");
    pages(&sealer, 9, &[]).unwrap();
    assert_eq!(dead(&sealer, 9, 9), [], "checkpoint 9 is the first that names nothing of them");
    assert_eq!(dead(&sealer, 10, 3), [EpochId(2)], "the log needs 3 and on");
    assert_eq!(dead(&sealer, 10, 9), [EpochId(2), EpochId(3)]);
    assert_eq!(sealer.drop_dead_epochs(Generation(9), EpochId(9)), [], "a reader began before checkpoint 9");
    assert_eq!(sealer.drop_dead_epochs(Generation(10), EpochId(9)), [EpochId(2), EpochId(3)]);
    assert_eq!(sealer.epochs(), [(EpochId(1), 5), (EpochId(4), 7), (EpochId(5), 0)]);
}

#[test]
fn an_epoch_that_was_drawn_here_is_never_dropped_here() {
    let sealer = aged([1, 1, 1, 1]);
    assert_eq!(sealer.new_epoch(), Ok(EpochId(6)));
    pages(&sealer, 9, &[]).unwrap();
    assert_eq!(dead(&sealer, 20, 20), []);
    assert_eq!(sealer.listed_epochs(), 6);
}

#[test]
fn an_epoch_that_comes_back_is_not_dead() {
    let sealer = aged([0, 1, 1, 1]);
    pages(&sealer, 9, &[]).unwrap();
    sealer.adjust_live(EpochId(1), 2);
    pages(&sealer, 10, &[]).unwrap();
    sealer.adjust_live(EpochId(1), -2);
    pages(&sealer, 11, &[]).unwrap();
    assert_eq!(dead(&sealer, 11, 9), []);
    assert_eq!(dead(&sealer, 12, 9), [EpochId(1)]);
}

#[test]
fn a_count_that_was_wrong_keeps_its_epoch() {
    let sealer = aged([1, 1, 1, 1]);
    sealer.adjust_live(EpochId(1), -2);
    assert_eq!(sealer.epochs()[0], (EpochId(1), LIVE_UNKNOWN));
    sealer.adjust_live(EpochId(1), -2);
    pages(&sealer, 9, &[]).unwrap();
    assert_eq!(dead(&sealer, 10, 9), []);
    sealer.set_live(EpochId(1), 0);
    pages(&sealer, 10, &[]).unwrap();
    assert_eq!(dead(&sealer, 11, 9), [EpochId(1)]);
}

#[test]
fn a_table_leaves_out_what_is_dead_and_nothing_else() {
    let sealer = aged([0, 1, 1, 1]);
    assert_eq!(pages(&sealer, 9, &[EpochId(2)]).err(), Some(Corrupt::UnknownEpoch(EpochId(2)).into()));
    let to = sealer_of(1, Arc::new(CountingRng::default()));
    let page = pages(&sealer, 10, &[EpochId(1)]).unwrap().remove(0);
    to.open_epoch_page(0, &page.bytes, &page.tag, Generation(10), true).unwrap();
    assert_eq!(to.epochs().first(), Some(&(EpochId(2), 1)));
    // The other slot's table still names it; it does not come back into the count.
    let page = pages(&sealer, 10, &[]).unwrap().remove(0);
    to.open_epoch_page(0, &page.bytes, &page.tag, Generation(9), false).unwrap();
    to.set_needed(EpochId(9));
    assert_eq!((to.epochs().len(), to.listed_epochs()), (5, 4 - 1), "1 died before, 5 in this very checkpoint");
}

#[test]
fn what_does_not_fit_a_table_must_be_in_the_log() {
    let sealer = sealer();
    (2..=86).for_each(|expected| assert_eq!(sealer.new_epoch(), Ok(EpochId(expected))));
    let seal = |log_epoch| sealer.seal_epoch_pages(Generation(1), &BTreeSet::new(), 1, EpochId(log_epoch));
    assert_eq!(seal(84).map(|(pages, count)| (pages.len(), count)).ok(), Some((1, 84)));
    assert!(seal(85).is_err());
}

#[test]
fn tables_of_any_size_come_back() {
    let sealer = sealer();
    for expected in 2..=200 {
        assert_eq!(sealer.new_epoch(), Ok(EpochId(expected)));
    }
    sealer.adjust_live(EpochId(150), 7);
    assert_eq!(sealer.epoch_page_count(&BTreeSet::new()), 3);
    assert_eq!(reopened(&sealer).epochs(), sealer.epochs());
    let page = pages(&sealer, 1, &[]).unwrap().remove(1);
    let other = sealer_of(1, Arc::new(CountingRng::default()));
    let opened = other.open_epoch_page(1, &page.bytes, &[0; 16], Generation(1), true);
    assert_eq!(opened, Err(Tampered::EpochPage { index: 1 }.into()));
    assert_eq!(other.epochs(), []);
}

#[test]
fn more_epochs_than_keys_are_kept_expanded_still_open() {
    let sealer = sealer();
    let mut blocks = vec![];
    for _ in 0..MAX_EXPANDED + 10 {
        let mut block = [0; BLOCK_SIZE];
        let proof = seal_block(&sealer, &[1; BLOCK_SIZE], &mut block).unwrap();
        blocks.push((loc(proof.epoch, proof.nonce, proof.tag), block));
        sealer.new_epoch().unwrap();
    }
    for (loc, mut block) in blocks {
        assert_eq!(sealer.open_data(&loc, &mut block), Ok(()));
        let table = sealer.table.read();
        let expanded = table.epochs.values().filter(|epoch| epoch.keys.is_some()).count();
        assert_eq!(table.expanded, expanded);
        assert!(expanded <= MAX_EXPANDED);
    }
}

#[test]
fn two_secrets_for_one_epoch_are_corrupt() {
    let sealer = sealer();
    let Some(LogRecord::NewEpoch { id, secret }) = sealer.new_epoch_record(EpochId(1)) else { panic!("no record") };
    assert_eq!(sealer.add_epoch(id, secret, 0), Ok(()));
    assert_eq!(sealer.add_epoch(id, SecretKey::new([0xee; 32]), 0), Err(Corrupt::UnknownEpoch(id)));
    assert!(seal_block(&sealer, &[0; BLOCK_SIZE], &mut [0; BLOCK_SIZE]).is_ok(), "the known epoch stays as it was");
}

#[test]
fn the_table_is_bounded() {
    let sealer = sealer();
    for id in 2..=MAX_EPOCHS {
        sealer.add_epoch(EpochId(id), SecretKey::new([1; 32]), 1).unwrap();
    }
    assert_eq!(sealer.new_epoch(), Err(SealFailure::TooManyEpochs));
    for id in MAX_EPOCHS + 1..=2 * MAX_EPOCHS {
        sealer.add_epoch(EpochId(id), SecretKey::new([1; 32]), 1).unwrap();
    }
    assert!(sealer.add_epoch(EpochId(2 * MAX_EPOCHS + 1), SecretKey::new([1; 32]), 1).is_err());
    assert!(pages(&sealer, 1, &[]).is_err(), "the format has no room for so many");
    let full = sealer_of(1, Arc::new(CountingRng::default()));
    full.add_epoch(EpochId(u32::MAX), SecretKey::new([1; 32]), 1).unwrap();
    assert_eq!(full.new_epoch(), Err(SealFailure::TooManyEpochs), "numbers do not wrap");
}
