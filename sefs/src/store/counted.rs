//! Slots of volumes whose anchor is a bare counter; the rules stand in `anchor/counter.rs`.

use crate::anchor::{AnchorKind, counter};
use crate::error::{AnchorError, Result};
use crate::store::Store;
use crate::store::checkpoint::Occasion;
use crate::store::commit::Anchored;

impl Store {
    /// What the slot that is about to be written says of its anchor's counter. A bare counter's first slot of a mount takes
    /// a value for itself: as late as can be, for until the slot is there a crash is dear.
    pub(super) fn slot_number(&self, anchored: &mut Anchored, occasion: Occasion) -> Result<u64> {
        if anchored.anchor.kind() != AnchorKind::BareCounter {
            return Ok(anchored.state.counter);
        }
        let number = match occasion {
            Occasion::EpochStart => {
                self.count(anchored)?;
                if !counter::is_claim(anchored.state.counter) {
                    self.count(anchored)?;
                }
                counter::first_number(anchored.state.counter)
            }
            Occasion::Ordinary | Occasion::KeyChange | Occasion::Close => counter::next_number(anchored.state.counter),
        };
        anchored.number = number.ok_or(AnchorError::Malformed)?;
        Ok(anchored.number)
    }

    /// The newest slot is durable: counts up to its number.
    pub(super) fn count_up(&self, anchored: &mut Anchored) -> Result<()> {
        while anchored.state.counter < anchored.number {
            self.count(anchored)?;
        }
        Ok(())
    }

    fn count(&self, anchored: &mut Anchored) -> Result<()> {
        let counted = counter::count(&*anchored.anchor, &mut anchored.state);
        counted.map_err(|failure| self.latch(failure.into()))
    }
}
