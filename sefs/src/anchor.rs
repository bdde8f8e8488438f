//! temp
pub use crate::format::{AnchorKind, AnchorPolicy};
use crate::error::AnchorError;
use crate::suite::{Suite, Tag};
use crate::types::Lsn;
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AnchorState { pub counter: u64, pub digest: [u8; 32] }
pub trait Anchor: Send + Sync {
    fn kind(&self) -> AnchorKind;
    fn identity(&self) -> [u8; 32];
    fn read(&self) -> Result<AnchorState, AnchorError>;
    fn advance(&self, from: &AnchorState, to: &AnchorState) -> Result<(), AnchorError>;
}
pub fn state_digest(suite: &dyn Suite, volume_id: &[u8;16], key_generation: u32, header_digest: &[u8;32], slot_salt: &[u8;32], lsn: Lsn, tag: &Tag) -> [u8;32] { suite.sha256(&[volume_id, &key_generation.to_le_bytes(), header_digest, slot_salt, &lsn.0.to_le_bytes(), tag]) }
