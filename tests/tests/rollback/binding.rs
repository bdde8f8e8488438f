//! A volume goes over to another anchor, or to its first.

use super::*;

use sefs_tests::tree::Tree;

/// What binds a volume before: nothing, or an anchor of a kind.
const BEFORE: [Option<(AnchorKind, AnchorPolicy)>; 3] = [
    None,
    Some((AnchorKind::ContentBound, AnchorPolicy::Strict)),
    Some((AnchorKind::BareCounter, AnchorPolicy::Checkpoint)),
];

/// A volume with one file, closed, and its anchor.
struct Before {
    world: World,
    disk: Disk,
    anchor: Option<(AnchorKind, AnchorState)>,
}

fn make(volume: &Volume, name: &[u8]) {
    let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
    volume.make(&Caller::root(), InodeNo::ROOT, name, &new).expect("a healthy disk");
}

impl Before {
    fn new(bound: Option<(AnchorKind, AnchorPolicy)>, seed: u64) -> Before {
        let world = World::new(seed);
        let host = Recorder::plain(Disk::new(SIZE));
        let vault = bound.map(|(kind, policy)| {
            let vault = Arc::new(Vault::of(kind, 1, AnchorState { counter: 0, digest: [0; 32] }));
            (vault, policy)
        });
        let anchor = vault.clone().map(|(vault, policy)| (vault as Arc<dyn sefs::anchor::Anchor>, policy));
        let options = FormatOptions { anchor: anchor.clone(), ..format_options(SIZE) };
        world.format_on(Arc::new(host.clone()), &options).expect("formatting an empty disk");
        let options = OpenOptions { anchor: anchor.map(|(anchor, _)| anchor), ..small_memory() };
        let volume = world.open(Arc::new(host.clone()), &options).expect("a fresh volume");
        make(&volume, b"first");
        volume.close().expect("a healthy disk");
        let anchor = vault.map(|(vault, _)| (sefs::anchor::Anchor::kind(&*vault), vault.state()));
        Before { world, disk: host.disk(), anchor }
    }

    fn options(&self) -> OpenOptions {
        let anchor = self.anchor.clone().map(|(kind, state)| Arc::new(Vault::of(kind, 1, state)) as Arc<_>);
        OpenOptions { anchor, ..small_memory() }
    }

    fn open(&self, disk: Disk, options: &OpenOptions) -> sefs::error::Result<Volume> {
        self.world.reseeded(17).open(Arc::new(Recorder::plain(disk)), options)
    }

    fn tree(&self) -> Tree {
        walk(&self.open(self.disk.clone(), &self.options()).expect("it opens as before")).expect("an intact image")
    }
}

fn next(kind: AnchorKind, state: AnchorState) -> OpenOptions {
    OpenOptions { anchor: Some(Arc::new(Vault::of(kind, 2, state))), ..small_memory() }
}

#[test]
fn a_volume_goes_over_to_another_anchor_and_is_held_by_that_alone() {
    for before in BEFORE {
        for (kind, policy) in KINDS {
            let context = format!("{before:?} to {kind:?}, {policy:?}");
            let run = Before::new(before, 81);
            let host = Recorder::new(run.disk.clone());
            let vault = Arc::new(Vault::of(kind, 2, AnchorState { counter: 0, digest: [0; 32] }));
            vault.watch(&host);
            let mut volume = run.world.open(Arc::new(host.clone()), &run.options()).expect("the newest state");
            volume.bind_anchor(vault.clone(), policy).unwrap_or_else(|error| panic!("{context}: {error}"));
            assert_eq!(volume.info().anchor, policy);
            let bound = host.position();
            make(&volume, b"second");
            volume.close().expect("a healthy disk");
            let newest = host.disk();

            let opened = run.open(newest.clone(), &next(kind, vault.state())).expect(&context);
            let standing = opened.anchor_standing().expect("it has an anchor");
            assert_eq!((standing.identity, standing.kind, standing.policy), ([2; 32], kind, policy));
            assert_eq!((standing.anchor, standing.current), (Some(vault.state().counter), true), "{context}");
            let without = run.open(newest.clone(), &small_memory()).map(drop);
            assert_eq!(without, Err(Error::Incompatible(Incompatible::AnchorRequired)), "{context}");
            if run.anchor.is_some() {
                let old = run.open(newest, &run.options()).map(drop);
                assert_eq!(old, Err(Error::Incompatible(Incompatible::OtherAnchor)), "{context}");
            }
            // The image of before is another anchor's, and the one of just after is older than this one says.
            let old = run.open(run.disk.clone(), &next(kind, vault.state())).map(drop);
            assert!(
                matches!(old, Err(Error::Incompatible(Incompatible::OtherAnchor | Incompatible::NotAnchored))),
                "{context}: {old:?}"
            );
            let old = run.open(host.recording().prefix(bound), &next(kind, vault.state()));
            assert!(rolled_back(&old), "{context}");
        }
    }
}

#[test]
fn a_crash_while_binding_leads_to_the_old_anchor_or_to_the_new() {
    let seed = seed("a_crash_while_binding_leads_to_the_old_anchor_or_to_the_new", 82);
    let mut dice = Dice::new(seed);
    for before in BEFORE {
        for (kind, policy) in KINDS {
            let run = Before::new(before, seed);
            let expected = run.tree();
            let host = Recorder::new(run.disk.clone());
            let vault = Arc::new(Vault::of(kind, 2, AnchorState { counter: 0, digest: [0; 32] }));
            vault.watch(&host);
            let mut volume = run.world.open(Arc::new(host.clone()), &run.options()).expect("the newest state");
            volume.bind_anchor(vault.clone(), policy).expect("a healthy disk");
            let (recording, history) = (host.recording(), vault.history());
            for position in 0..=recording.events.len() {
                for (_, state) in states_at(&history, position) {
                    for sample in 0..scaled(3, 20) {
                        let disk = match sample {
                            0 => recording.prefix(position),
                            _ => recording.crash(position, &mut dice),
                        };
                        let opened = run
                            .open(disk.clone(), &next(kind, state.clone()))
                            .or_else(|_| run.open(disk, &run.options()));
                        let context = format!("seed {seed}, {before:?} to {kind:?}, {policy:?}, event {position}");
                        let volume = opened.unwrap_or_else(|error| panic!("{context}: {error}"));
                        assert!(walk(&volume).expect("an intact image") == expected, "{context}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_volume_is_bound_before_anything_else_or_not_at_all() {
    let run = Before::new(BEFORE[1], 83);
    let fresh = || Arc::new(Vault::new(2));
    let options = OpenOptions { read_only: true, ..run.options() };
    let mut volume = run.open(run.disk.clone(), &options).expect("the newest state");
    assert!(volume.bind_anchor(fresh(), AnchorPolicy::Strict).is_err(), "read-only");
    let mut volume = run.open(run.disk.clone(), &run.options()).expect("the newest state");
    assert!(volume.bind_anchor(fresh(), AnchorPolicy::None).is_err(), "without a policy");
    let counter = Arc::new(Vault::of(AnchorKind::BareCounter, 2, AnchorState { counter: 0, digest: [0; 32] }));
    assert!(volume.bind_anchor(counter, AnchorPolicy::Strict).is_err(), "a strict counter");
    let down = fresh();
    down.fail(Some(AnchorError::Unreachable("down".into())));
    assert!(volume.bind_anchor(down, AnchorPolicy::Strict).is_err(), "an anchor out of reach");
    make(&volume, b"written");
    assert!(volume.bind_anchor(fresh(), AnchorPolicy::Strict).is_err(), "too late");
    volume.close().expect("nothing of that did harm");
}

/// What an operator is told of an image that is refused: whether it is the image that is old, or the anchor.
#[test]
fn an_image_says_where_it_stands_though_it_is_refused() {
    let run = Run::new(AnchorPolicy::Strict, &workload(84), 84);
    let newest = run.history.recording.prefix(run.end());
    let standing = |disk: &Disk, options: OpenOptions| {
        let options = OpenOptions { read_only: true, ..options };
        let volume = run.world.open(Arc::new(Recorder::plain(disk.clone())), &options).expect("it opens");
        volume.anchor_standing().expect("it has an anchor")
    };
    let abandoned = || OpenOptions { abandon_anchor: true, ..small_memory() };
    let here = standing(&newest, anchored(&with_state(run.last_anchor())));
    assert!(here.current && here.anchor == Some(run.last_anchor().counter) && here.identity == [1; 32]);
    let alone = standing(&newest, abandoned());
    assert_eq!((alone.image, alone.anchor, alone.current), (here.image, None, false));
    let (position, _) = run.anchors[run.anchors.len() / 2];
    let old = standing(&run.history.recording.prefix(position), abandoned());
    assert!(old.image <= here.image && old.image < run.last_anchor().counter);
}
