//! A passphrase made into 32 bytes with Argon2id (RFC 9106), within limits.
//!
//! *Security*: the parameters of a stored slot are the host's word until the slot opened. They are checked against the
//! limits before a byte is allocated, and the memory is asked for fallibly, so a hostile slot costs neither memory nor
//! more time than the limits allow. New slots take their cost from the caller, never from a stored slot.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use zeroize::Zeroize;

use crate::secret::Key;
use crate::slot::SlotError;

/// What one derivation costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argon2Cost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Argon2Cost {
    /// 256 MiB, 3 passes, 4 lanes: what new slots take.
    pub const DEFAULT: Argon2Cost = Argon2Cost { memory_kib: 256 << 10, passes: 3, lanes: 4 };
    /// 64 MiB, 3 passes, 4 lanes: for small machines and tests. RFC 9106's second recommendation.
    pub const CHEAP: Argon2Cost = Argon2Cost { memory_kib: MIN_MEMORY_KIB, passes: 3, lanes: 4 };
}

/// What opening a slot may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argon2Limits {
    /// Bytes of memory that the caller grants. Above 1 GiB it counts as 1 GiB.
    pub max_memory_bytes: u64,
}

impl Default for Argon2Limits {
    fn default() -> Argon2Limits {
        Argon2Limits { max_memory_bytes: u64::from(MAX_MEMORY_KIB) * 1024 }
    }
}

impl Argon2Limits {
    /// Refuses a cost outside 64 MiB ≤ memory ≤ min(1 GiB, budget), 1 ≤ passes ≤ 16, 1 ≤ lanes ≤ 8.
    pub(crate) fn check(&self, cost: &Argon2Cost) -> Result<(), SlotError> {
        let budget_kib = (self.max_memory_bytes / 1024).min(u64::from(MAX_MEMORY_KIB));
        let within = cost.memory_kib >= MIN_MEMORY_KIB
            && u64::from(cost.memory_kib) <= budget_kib
            && (1..=MAX_PASSES).contains(&cost.passes)
            && (1..=MAX_LANES).contains(&cost.lanes);
        if within { Ok(()) } else { Err(SlotError::OverLimit { cost: *cost, budget_kib }) }
    }
}

/// Derives 32 bytes. `limits` are checked first, whoever calls.
pub(crate) fn derive(
    passphrase: &[u8],
    salt: &[u8; 32],
    cost: &Argon2Cost,
    limits: &Argon2Limits,
) -> Result<Key, SlotError> {
    limits.check(cost)?;
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(|_| SlotError::WrongKey)?;
    let mut memory = Memory::new(params.block_count())?;
    let mut out = Key::zeroed();
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into_with_memory(passphrase, salt, out.expose_mut(), &mut memory)
        .map_err(|_| SlotError::WrongKey)?;
    Ok(out)
}

/// The derivation's working memory: asked for fallibly, wiped afterwards.
struct Memory(Vec<Block>);

impl Memory {
    fn new(blocks: usize) -> Result<Memory, SlotError> {
        let mut memory = Vec::new();
        memory.try_reserve_exact(blocks).map_err(|_| SlotError::OutOfMemory)?;
        memory.resize(blocks, Block::new());
        Ok(Memory(memory))
    }
}

impl AsMut<[Block]> for Memory {
    fn as_mut(&mut self) -> &mut [Block] {
        &mut self.0
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(Block::zeroize);
    }
}

const MIN_MEMORY_KIB: u32 = 64 << 10;
const MAX_MEMORY_KIB: u32 = 1 << 20;
const MAX_PASSES: u32 = 16;
const MAX_LANES: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(memory_kib: u32, passes: u32, lanes: u32, budget_bytes: u64, allowed: bool) {
        let cost = Argon2Cost { memory_kib, passes, lanes };
        let limits = Argon2Limits { max_memory_bytes: budget_bytes };
        assert_eq!(limits.check(&cost).is_ok(), allowed, "{cost:?} under {budget_bytes} bytes");
    }

    #[test]
    fn limits_hold_at_their_edges() {
        const GIB: u64 = 1 << 30;
        check(64 << 10, 1, 1, GIB, true);
        check((64 << 10) - 1, 1, 1, GIB, false);
        check(1 << 20, 16, 8, GIB, true);
        check((1 << 20) + 1, 16, 8, u64::MAX, false);
        check(u32::MAX, 3, 4, u64::MAX, false);
        check(128 << 10, 3, 4, 64 << 20, false);
        check(64 << 10, 3, 4, 64 << 20, true);
        check(64 << 10, 3, 4, (64 << 20) - 1, false);
        check(64 << 10, 17, 4, GIB, false);
        check(64 << 10, 0, 4, GIB, false);
        check(64 << 10, 3, 9, GIB, false);
        check(64 << 10, 3, 0, GIB, false);
    }

    #[test]
    fn over_the_limit_nothing_is_derived() {
        let cost = Argon2Cost { memory_kib: u32::MAX, passes: 1, lanes: 1 };
        let result = derive(b"x", &[0; 32], &cost, &Argon2Limits { max_memory_bytes: u64::MAX });
        assert!(matches!(result, Err(SlotError::OverLimit { .. })));
    }
}
