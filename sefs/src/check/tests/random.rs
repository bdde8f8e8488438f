//! Random content of files in a store, cut off anywhere.

use proptest::prelude::*;

use super::*;

/// What a file of the random volume may see.
#[derive(Clone, Debug)]
enum Step {
    Write { file: u64, block: u64, blocks: u64 },
    Clear { file: u64, block: u64, blocks: u64 },
    Preallocate { file: u64, block: u64, blocks: u64 },
    Truncate { file: u64 },
    Commit,
    Work,
    Crash,
    Close,
}

fn any_step() -> impl Strategy<Value = Step> {
    let (file, block) = (0..4_u64, 0..3_000_u64);
    prop_oneof![
        8 => (file.clone(), block.clone(), 1..60_u64).prop_map(|(file, block, blocks)| Step::Write { file, block, blocks }),
        3 => (file.clone(), block.clone(), 1..2_500_u64)
            .prop_map(|(file, block, blocks)| Step::Clear { file, block, blocks }),
        1 => (file.clone(), block, 1..100_u64)
            .prop_map(|(file, block, blocks)| Step::Preallocate { file, block, blocks }),
        1 => file.prop_map(|file| Step::Truncate { file }),
        3 => Just(Step::Commit),
        2 => Just(Step::Work),
        2 => Just(Step::Crash),
        1 => Just(Step::Close),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happened, and wherever it was cut off.
    #[test]
    fn random_volumes_have_no_findings(steps in prop::collection::vec(any_step(), 1..80)) {
        let (backend, mut store) = sample();
        let mut tx = store.begin(Need::Metadata).unwrap();
        for file in 0..4 {
            let size = 4_000 * BLOCK_SIZE_U64;
            let file = Inode { links: 0, size, ..inode(FileKind::Regular, UNUSED + file) };
            tx.put(inode_key(file.object.0), file.encode());
            tx.put(Key::new(0, Kind::Orphan, file.object.0), OrphanRecord.encode());
        }
        tx.count_inodes(4);
        tx.finish();
        store.commit().unwrap();
        for step in steps {
            let begin = |need| store.begin(need).unwrap();
            match step {
                Step::Write { file, block, blocks } => {
                    let Ok(mut tx) = store.begin(Need::Data { blocks }) else { continue };
                    let bytes = vec![1; usize::try_from(blocks).unwrap() * BLOCK_SIZE];
                    tx.write(ObjectId(UNUSED + file), block, &bytes).unwrap();
                    tx.finish();
                }
                Step::Clear { file, block, blocks } => {
                    let mut tx = begin(Need::Release);
                    tx.clear(ObjectId(UNUSED + file), block, block + blocks).unwrap();
                    tx.finish();
                }
                Step::Preallocate { file, block, blocks } => {
                    let Ok(mut tx) = store.begin(Need::Data { blocks }) else { continue };
                    tx.preallocate(ObjectId(UNUSED + file), block, blocks).unwrap();
                    tx.finish();
                }
                Step::Truncate { file } => {
                    let mut tx = begin(Need::Release);
                    tx.clear(ObjectId(UNUSED + file), 0, u64::MAX).unwrap();
                    tx.finish();
                }
                Step::Commit => store.commit().unwrap(),
                Step::Work => drop(store.work(0).unwrap()),
                Step::Crash => {
                    drop(store);
                    prop_assert_eq!(findings(&backend, true), []);
                    store = open(&backend);
                }
                Step::Close => {
                    store.close().unwrap();
                    prop_assert_eq!(findings(&backend, true), []);
                    store = open(&backend);
                }
            }
        }
        store.commit().unwrap();
        prop_assert_eq!(findings(&backend, true), []);
    }
}
