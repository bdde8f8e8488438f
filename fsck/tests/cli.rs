//! The command-line tools, run as programs: what they make, what they refuse, and how they say it.

#[path = "cli/archives.rs"]
mod archives;
#[path = "cli/bench.rs"]
mod bench;
#[path = "cli/commit.rs"]
mod commit;
#[path = "cli/debug.rs"]
mod debug;
#[path = "cli/diff.rs"]
mod diff;
#[path = "cli/from.rs"]
mod from;
#[path = "cli/fsck.rs"]
mod fsck;
#[path = "cli/layers.rs"]
mod layers;
#[path = "cli/manifest.rs"]
mod manifest;
#[path = "cli/mkfs.rs"]
mod mkfs;
#[path = "cli/oci.rs"]
mod oci;
#[path = "cli/packed.rs"]
mod packed;
#[path = "cli/repair.rs"]
mod repair;
#[path = "cli/rotate.rs"]
mod rotate;
#[path = "cli/sealing.rs"]
mod sealing;
#[path = "cli/speech.rs"]
mod speech;
#[path = "cli/stories.rs"]
mod stories;
#[path = "cli/upgrade.rs"]
mod upgrade;
