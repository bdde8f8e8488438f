//! Making and opening volumes with the keys that C has.

use std::sync::Arc;

use sealing::{Argon2Cost, Argon2Limits, Key, OsRng, Secret, SlotError, SlotSecret};
use sefs::backend::Backend;
use sefs::env::Env;
use sefs::error::Error;
use sefs::format::KeySlot;
use sefs::keys::VolumeKey;
use sefs::vfs::{FormatOptions, Lower, NewLower, OpenOptions, Volume};

use crate::error::{Failure, Outcome};
use crate::values::SefsKeyKind;

/// An open volume, and what its images are opened with.
pub struct SefsVolume(pub(crate) Volume, pub(crate) Opening);

/// What a volume was opened with and its images are too.
#[derive(Clone)]
pub(crate) struct Opening {
    /// The most that Argon2id may take while a passphrase is tried.
    pub(crate) passphrase_bytes: u64,
    pub(crate) env: Env,
}

/// What C gave to open a volume with.
pub(crate) enum Given {
    Volume(VolumeKey),
    Slot(SlotSecret),
}

impl Given {
    pub(crate) fn of(kind: u32, bytes: &[u8]) -> Outcome<Given> {
        let exactly = || <&[u8; 32]>::try_from(bytes).map_err(|_| Failure::INVALID);
        match kind {
            kind if kind == SefsKeyKind::Volume as u32 => Ok(Given::Volume(VolumeKey::copy_of(exactly()?))),
            kind if kind == SefsKeyKind::RawKey as u32 => {
                Ok(Given::Slot(SlotSecret::RawKey(Key::from_bytes(exactly()?))))
            }
            kind if kind == SefsKeyKind::Passphrase as u32 && !bytes.is_empty() => {
                Ok(Given::Slot(SlotSecret::Passphrase(Secret::new(bytes.to_vec()))))
            }
            _ => Err(Failure::INVALID),
        }
    }

    /// The volume key for a new volume, and its slot.
    fn fresh(self, volume_id: &[u8; 16], env: &Env) -> Outcome<(VolumeKey, Vec<KeySlot>)> {
        let secret = match self {
            Given::Volume(key) => return Ok((key, Vec::new())),
            Given::Slot(secret) => secret,
        };
        let key = VolumeKey::generate(&*env.rng)?;
        let cost = Argon2Cost::DEFAULT;
        let body = sealing::wrap(&secret, &Key::from_bytes(key.expose()), volume_id, &cost, &OsRng);
        let slot = KeySlot { kind: secret.kind().number(), body: body.map_err(Failure::Slot)? };
        Ok((key, vec![slot]))
    }

    /// The volume key of an existing one. It is authentic only once the volume opened with it.
    fn unwrapped(self, backend: &dyn Backend, passphrase_bytes: u64) -> Outcome<VolumeKey> {
        let secret = match self {
            Given::Volume(key) => return Ok(key),
            Given::Slot(secret) => secret,
        };
        let header = Volume::read_header(backend)?;
        let limits = Argon2Limits { max_memory_bytes: passphrase_bytes };
        let mut outcome = Failure::Volume(Error::WrongKey);
        for slot in header.slots.iter().filter(|slot| slot.kind == secret.kind().number()) {
            match sealing::unwrap(&secret, &slot.body, &header.volume_id, &limits) {
                Ok(key) => return Ok(VolumeKey::copy_of(key.expose())),
                Err(SlotError::WrongKey) => {}
                Err(error) => outcome = Failure::Slot(error),
            }
        }
        Err(outcome)
    }
}

pub(crate) fn format(
    backend: &Arc<dyn Backend>,
    key: Given,
    mut options: FormatOptions,
    lowers: &[NewLower],
    env: &Env,
) -> Outcome<()> {
    let (key, slots) = key.fresh(&options.volume_id, env)?;
    options.slots = slots;
    match lowers {
        [] => Ok(Volume::format(backend.clone(), &key, &options, env)?),
        lowers => Ok(Volume::format_over(backend.clone(), &key, &options, lowers, env)?),
    }
}

/// An image to be put below a volume.
pub(crate) fn lower(backend: &Arc<dyn Backend>, key: Option<Given>, passphrase_bytes: u64) -> Outcome<Lower> {
    let key = key.map(|key| key.unwrapped(&**backend, passphrase_bytes)).transpose()?;
    Ok(Lower { backend: backend.clone(), key: key.map(Arc::new) })
}

pub(crate) fn open(
    backend: &Arc<dyn Backend>,
    key: Option<Given>,
    options: &OpenOptions,
    opening: Opening,
) -> Outcome<SefsVolume> {
    let env = &opening.env;
    let Some(key) = key else { return Ok(SefsVolume(Volume::open_public(backend.clone(), options, env)?, opening)) };
    let key = key.unwrapped(&**backend, opening.passphrase_bytes)?;
    Ok(SefsVolume(Volume::open(backend.clone(), &key, options, env)?, opening))
}
