//! Two hosts open copies of one volume: the anchor lets one of them go on.

use sefs::error::Result;

use super::*;

fn change(volume: &Volume, name: &[u8]) -> Result<()> {
    let new = NewInode { kind: FileKind::Regular, mode: 0o600, rdev: 0, target: Vec::new() };
    let ino = volume.make(&Caller::root(), InodeNo::ROOT, name, &new)?.ino;
    volume.write(&Caller::root(), ino, 0, b"mine", WriteMode::Direct)?;
    volume.sync()
}

/// Whichever changes something first goes on; the other one is told, keeps being told, and its copy opens no more.
#[test]
fn one_of_two_copies_goes_on() {
    for (kind, policy) in KINDS {
        let run = Run::of(kind, policy, &workload(7), 7);
        let disk = run.history.recording.prefix(run.end());
        let vault = of_kind(kind, run.last_anchor());
        let hosts = [1, 2].map(|_| Recorder::plain(disk.clone()));
        let [first, second] = [0, 1].map(|index| {
            let world = run.world.reseeded(index as u64);
            world.open(Arc::new(hosts[index].clone()), &anchored(&vault)).expect("a clone")
        });
        change(&first, b"first").unwrap_or_else(|error| panic!("{kind:?}, {policy:?}: the first: {error}"));
        let error = change(&second, b"second").expect_err("the second");
        assert_eq!(error, Error::Anchor(AnchorError::Conflict), "{kind:?}, {policy:?}");
        assert!(matches!(change(&second, b"third"), Err(Error::Latched(_))), "it stays so");
        assert!(matches!(second.close(), Ok(()) | Err(Error::Latched(_))));
        change(&first, b"again").unwrap_or_else(|error| panic!("{kind:?}, {policy:?}: the first goes on: {error}"));
        let current = walk(&first).expect("an intact image");
        first.close().expect("a healthy disk");
        let opened = run.open(&hosts[1].disk(), &vault.state());
        assert!(rolled_back(&opened), "{kind:?}, {policy:?}: the copy: {:?}", opened.err());
        assert!(rolled_back(&run.open(&disk, &vault.state())), "{kind:?}, {policy:?}: the image of before");
        let volume = run.open(&hosts[0].disk(), &vault.state()).expect("the newest state");
        assert!(walk(&volume).expect("an intact image") == current);
    }
}

/// Both copies change things in turns: of all commits that were acknowledged none is missing from the one copy that opens.
#[test]
fn a_fork_loses_nothing_that_was_acknowledged() {
    for (kind, policy) in KINDS {
        for turn in 0..2 {
            let run = Run::of(kind, policy, &workload(8), 8);
            let disk = run.history.recording.prefix(run.end());
            let vault = of_kind(kind, run.last_anchor());
            let hosts = [1, 2].map(|_| Recorder::plain(disk.clone()));
            let volumes = [0, 1].map(|index| {
                let world = run.world.reseeded(index as u64);
                world.open(Arc::new(hosts[index].clone()), &anchored(&vault)).expect("a clone")
            });
            let mut acknowledged = [0, 0];
            for step in 0..8 {
                let index = (step + turn) % 2;
                acknowledged[index] += u32::from(change(&volumes[index], format!("{step}").as_bytes()).is_ok());
            }
            assert!(acknowledged.contains(&0) && acknowledged.contains(&4), "{kind:?}, {policy:?}: {acknowledged:?}");
            let winner = usize::from(acknowledged[0] == 0);
            let promised = walk(&volumes[winner]).expect("an intact image");
            drop(volumes);
            let volume = run.open(&hosts[winner].disk(), &vault.state()).expect("the copy that went on");
            assert!(walk(&volume).expect("an intact image") == promised);
            assert!(rolled_back(&run.open(&hosts[1 - winner].disk(), &vault.state())));
        }
    }
}
