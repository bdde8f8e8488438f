//! Slots for code on a platform: the body is a sealed blob whose payload is the volume key, and with it who may approve a
//! successor.
//!
//! Payload: volume key 32, then nothing or an approver set.
//!
//! *Security*: the approver set stands under the same seal as the key, so whoever can read it could open the volume anyway,
//! and the host can neither change it nor leave it out.

use zeroize::Zeroizing;

use crate::approval::Approvers;
use crate::blob::{self, BlobUse, SealError};
use crate::blob_header::Purpose;
use crate::platform::Platform;
use crate::policy::{Development, PolicyError, SealPolicy};
use crate::rng::Rng;
use crate::secret::Key;
use crate::slot::SlotError;

/// Code on a platform, and what its slots bind to.
pub struct PlatformOwner {
    platform: Box<dyn Platform>,
    policy: SealPolicy,
    development: Development,
}

/// What a platform's slot holds.
pub struct Opened {
    /// The volume key.
    pub volume_key: Key,
    /// Who may approve a successor; `None`: nobody.
    pub approvers: Option<Approvers>,
}

/// What the blob in a slot is for.
pub fn slot_use(volume_id: &[u8; 16]) -> BlobUse {
    // The text keeps the rules for purposes; a test says so.
    BlobUse { purpose: Purpose::new(PURPOSE).expect("a sound purpose"), volume_id: *volume_id }
}

impl PlatformOwner {
    /// An owner. A platform for development is refused here already unless it is allowed.
    pub fn new(
        platform: Box<dyn Platform>,
        policy: SealPolicy,
        development: Development,
    ) -> Result<PlatformOwner, PolicyError> {
        development.check(&*platform)?;
        policy.check_identity(platform.identity())?;
        Ok(PlatformOwner { platform, policy, development })
    }

    /// The platform.
    pub fn platform(&self) -> &dyn Platform {
        &*self.platform
    }

    /// What new slots bind to.
    pub fn policy(&self) -> &SealPolicy {
        &self.policy
    }

    /// Wraps a volume key: the body of a slot.
    pub fn wrap(
        &self,
        volume_key: &Key,
        volume_id: &[u8; 16],
        approvers: Option<&Approvers>,
        rng: &dyn Rng,
    ) -> Result<Vec<u8>, SlotError> {
        self.wrap_under(&self.policy, volume_key, volume_id, approvers, rng)
    }

    /// The same under another policy, such as the one that an approval names.
    pub fn wrap_under(
        &self,
        policy: &SealPolicy,
        volume_key: &Key,
        volume_id: &[u8; 16],
        approvers: Option<&Approvers>,
        rng: &dyn Rng,
    ) -> Result<Vec<u8>, SlotError> {
        let approvers = approvers.map(Approvers::encode).unwrap_or_default();
        let mut payload = Zeroizing::new(Vec::with_capacity(KEY_LEN + approvers.len()));
        payload.extend_from_slice(volume_key.expose());
        payload.extend_from_slice(&approvers);
        blob::seal(&*self.platform, policy, &slot_use(volume_id), 0, &payload, self.development, rng)
            .map_err(SlotError::Platform)
    }
}

/// Opens a platform's slot, and says why if it does not open.
pub fn open_platform_slot(owner: &PlatformOwner, body: &[u8], volume_id: &[u8; 16]) -> Result<Opened, SealError> {
    let payload = blob::unseal(owner.platform(), body, &slot_use(volume_id), None, owner.development)?;
    let (key, approvers) =
        payload.expose().split_first_chunk::<KEY_LEN>().ok_or(SealError::Malformed("the payload"))?;
    let approvers = match approvers {
        [] => None,
        bytes => Some(Approvers::decode(bytes).ok_or(SealError::Malformed("the approver set"))?),
    };
    Ok(Opened { volume_key: Key::from_bytes(key), approvers })
}

const KEY_LEN: usize = 32;
const PURPOSE: &str = "volume key";
