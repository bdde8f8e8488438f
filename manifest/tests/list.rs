//! Lists and proofs of what is on them.

use proptest::prelude::*;
use sefs_manifest::{Kind, Manifest, ManifestError, Proof, ProofError, Record, RecordError, sha256};

fn file(path: &str) -> Record {
    Record {
        path: path.into(),
        kind: Kind::Regular,
        mode: 0o644,
        uid: 1,
        gid: 2,
        rdev: 0,
        size: 5,
        content: sha256(&[path.as_bytes()]),
        attributes: [3; 32],
        target: Vec::new(),
    }
}

fn root() -> Record {
    Record { kind: Kind::Directory, mode: 0o755, size: 0, content: [0; 32], ..file("") }
}

fn list(files: usize) -> Manifest {
    let files = (0..files).map(|number| file(&format!("f{number:04}")));
    Manifest::new(files.chain([root()]).collect()).unwrap()
}

/// The same list has the same root wherever it is made: these are the published definitions, by hand.
#[test]
fn the_root_is_what_it_is_defined_as() {
    let manifest = list(2);
    let leaf = |record: &Record| sha256(&[&[0], b"sefs manifest record", &record.encode()]);
    let leaves: Vec<_> = manifest.records().iter().map(leaf).collect();
    let pair = sha256(&[&[1], &leaves[0], &leaves[1]]);
    let top = sha256(&[&[1], &pair, &leaves[2]]);
    assert_eq!(manifest.root(), sha256(&[&[2, 1], &3u64.to_le_bytes(), &top]));
    let bytes = root().encode();
    assert_eq!((bytes.len(), bytes[0], &bytes[1..5]), (97, 1, &0o755u32.to_le_bytes()[..]));
}

#[test]
fn what_cannot_be_on_a_list_is_refused() {
    assert_eq!(Manifest::new(Vec::new()).err(), Some(ManifestError::Empty));
    assert_eq!(Manifest::new(vec![file("a"), file("b"), file("a")]).err(), Some(ManifestError::Twice(b"a".to_vec())));
    for path in ["/a", "a/", "a//b", ".", "a/../b", "..", "a/./b", "a\0b", &"x/".repeat(3000)] {
        assert_eq!(file(path).check(), Err(RecordError::Path), "{path}");
        assert_eq!(Record::decode(&file(path).encode()), Err(RecordError::Path), "{path}");
    }
    let link = Record {
        kind: Kind::HardLink,
        mode: 0,
        uid: 0,
        gid: 0,
        size: 0,
        content: [0; 32],
        attributes: [0; 32],
        target: b"a".to_vec(),
        ..file("b")
    };
    assert_eq!(link.check(), Ok(()));
    let wrong = [
        Record { target: b"c".to_vec(), ..link.clone() },
        Record { target: b"b".to_vec(), ..link.clone() },
        Record { uid: 1, ..link.clone() },
        Record { size: 1, ..link },
        Record { rdev: 1, ..file("a") },
        Record { mode: 0o10000, ..file("a") },
        Record { target: b"x".to_vec(), ..file("a") },
        Record { kind: Kind::Symlink, size: 0, content: [0; 32], mode: 0, ..file("a") },
        Record { kind: Kind::Directory, ..file("a") },
    ];
    for record in wrong {
        assert_eq!(record.check(), Err(RecordError::Field), "{record:?}");
    }
}

#[test]
fn one_and_several_are_proved() {
    for files in [0, 1, 2, 3, 4, 5, 8, 100] {
        let manifest = list(files);
        for index in 0..=files {
            let path = manifest.records()[index].path.clone();
            let proof = manifest.prove(std::slice::from_ref(&path)).unwrap();
            let shown = proof.verify(&manifest.root()).unwrap();
            assert_eq!(shown, [(index as u64, manifest.records()[index].clone())]);
        }
        let all: Vec<_> = manifest.records().iter().map(|record| record.path.clone()).rev().collect();
        let proof = manifest.prove(&all).unwrap();
        assert_eq!((proof.verify(&manifest.root()).unwrap().len(), proof.hashes.len()), (files + 1, 0));
    }
    assert_eq!(list(3).prove(&[b"g".to_vec()]).err(), Some(ManifestError::Missing(b"g".to_vec())));
}

proptest! {
    /// Any proof of any list holds, and one that is changed anywhere shows nothing else than what is on the list.
    #[test]
    fn a_changed_proof_shows_nothing_else(
        files in 0usize..40,
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..6),
        at in any::<prop::sample::Index>(),
        change in 1u8..,
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let manifest = list(files);
        let paths: Vec<_> = picks.iter().map(|pick| manifest.records()[pick.index(files + 1)].path.clone()).collect();
        let honest = manifest.prove(&paths).unwrap();
        prop_assert!(honest.verify(&manifest.root()).is_ok());
        let mut bytes = honest.encode();
        prop_assert_eq!(Proof::decode(&bytes), Ok(honest));
        match cut {
            Some(cut) => bytes.truncate(cut.index(bytes.len())),
            None => {
                let at = at.index(bytes.len());
                bytes[at] ^= change;
            }
        }
        let outcome = Proof::decode(&bytes).and_then(|proof| proof.verify(&manifest.root()).map(<[_]>::to_vec));
        prop_assert!(outcome.is_err(), "{:?}", outcome);
    }

    /// Strangers may send anything.
    #[test]
    fn any_bytes_are_a_proof_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut whole = b"SEFSPRF\0\x01".to_vec();
        whole.extend_from_slice(&bytes);
        for bytes in [&bytes, &whole] {
            if let Ok(proof) = Proof::decode(bytes) {
                prop_assert_eq!(&proof.encode(), bytes);
                prop_assert!(proof.verify(&[0; 32]).is_err());
            }
        }
    }
}

#[test]
fn a_version_that_is_not_known_is_named() {
    let mut bytes = list(2).prove(&[Vec::new()]).unwrap().encode();
    bytes[8] = 2;
    assert_eq!(Proof::decode(&bytes), Err(ProofError::Version(2)));
}
