//! An anchor in a TPM's NV memory, as `sefs` knows anchors.
//!
//! *Security*: see [`sealing::tpm::Register`]. The volume's key is what advances it; which TPM, which indices and which key is
//! in the anchor's identity, which the volume's checkpoint holds under its seal.

use std::fmt;
use std::str::FromStr;

use sealing::Key;
use sealing::platform::Assurance;
use sealing::platform::tpm::assurance;
use sealing::tpm::{Register, RegisterKind, Tcti, TpmError};
use sefs::anchor::{Anchor, AnchorKind, AnchorState, check_count};
use sefs::error::AnchorError;
use sefs::keys::VolumeKey;

/// Where: `[counter:]INDEX[@TCTI]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmPlace {
    kind: RegisterKind,
    index: u32,
    tcti: Tcti,
}

/// An anchor in a TPM.
pub struct TpmAnchor {
    kind: RegisterKind,
    register: Register,
    identity: [u8; 32],
}

impl TpmAnchor {
    /// Makes a new one that the holder of `key` advances. What exists is not touched.
    pub fn create(place: &TpmPlace, key: &VolumeKey) -> Result<TpmAnchor, TpmError> {
        let (key, start) = (Key::from_bytes(key.expose()), encode(&START));
        TpmAnchor::of(place, Register::create(&place.tcti, place.index, place.kind, &key, &start)?)
    }

    /// Opens one.
    pub fn open(place: &TpmPlace, key: &VolumeKey) -> Result<TpmAnchor, AnchorError> {
        let key = Key::from_bytes(key.expose());
        let register = Register::open(&place.tcti, place.index, place.kind, &key).map_err(of_tpm)?;
        TpmAnchor::of(place, register).map_err(of_tpm)
    }

    fn of(place: &TpmPlace, register: Register) -> Result<TpmAnchor, TpmError> {
        Ok(TpmAnchor { kind: place.kind, identity: register.identity(), register })
    }

    /// Takes it away: for one whose volume was not made in the end.
    pub fn remove(&self) -> Result<(), TpmError> {
        self.register.remove()
    }

    /// What stands behind it.
    pub fn assurance(&self, place: &TpmPlace) -> Result<Assurance, TpmError> {
        Ok(assurance(&self.register.maker()?, &place.tcti))
    }
}

impl Anchor for TpmAnchor {
    fn kind(&self) -> AnchorKind {
        match self.kind {
            RegisterKind::Content => AnchorKind::ContentBound,
            RegisterKind::Counter => AnchorKind::BareCounter,
        }
    }

    fn identity(&self) -> [u8; 32] {
        self.identity
    }

    fn read(&self) -> Result<AnchorState, AnchorError> {
        match self.kind {
            RegisterKind::Content => self.register.content().map(|content| decode(&content)).map_err(of_tpm),
            RegisterKind::Counter => {
                let counter = self.register.count().map_err(of_tpm)?;
                Ok(AnchorState { counter, digest: [0; 32] })
            }
        }
    }

    fn advance(&self, from: &AnchorState, to: &AnchorState) -> Result<(), AnchorError> {
        match self.kind {
            RegisterKind::Content if to.counter <= from.counter => Err(AnchorError::Conflict),
            RegisterKind::Content => self.register.replace(&encode(from), &encode(to)).map_err(of_tpm),
            RegisterKind::Counter => {
                check_count(from, to)?;
                self.register.increment(from.counter).map_err(of_tpm)
            }
        }
    }
}

fn encode(state: &AnchorState) -> [u8; Register::CONTENT_LEN] {
    let mut out = [0; Register::CONTENT_LEN];
    out[..8].copy_from_slice(&state.counter.to_le_bytes());
    out[8..].copy_from_slice(&state.digest);
    out
}

fn decode(bytes: &[u8; Register::CONTENT_LEN]) -> AnchorState {
    let (mut counter, mut digest) = ([0; 8], [0; 32]);
    counter.copy_from_slice(&bytes[..8]);
    digest.copy_from_slice(&bytes[8..]);
    AnchorState { counter: u64::from_le_bytes(counter), digest }
}

fn of_tpm(error: TpmError) -> AnchorError {
    match error {
        TpmError::NoIndex(_) => AnchorError::Missing,
        TpmError::Conflict => AnchorError::Conflict,
        TpmError::Torn => AnchorError::Malformed,
        other => AnchorError::Unreachable(other.to_string()),
    }
}

impl FromStr for TpmPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<TpmPlace, String> {
        let (place, tcti) = text.split_once('@').unwrap_or((text, Tcti::DEFAULT));
        let (kind, number) = match place.split_once(':') {
            Some(("counter", number)) => (RegisterKind::Counter, number),
            _ => (RegisterKind::Content, place),
        };
        let index = match number.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => number.parse(),
        };
        let index = index.map_err(|_| format!("'{number}' is no NV index; write tpm:0x1500016, for one"))?;
        Ok(TpmPlace { kind, index, tcti: tcti.parse().map_err(|error: TpmError| error.to_string())? })
    }
}

impl fmt::Display for TpmPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            RegisterKind::Counter => "counter:",
            RegisterKind::Content => "",
        };
        write!(f, "{kind}{:#x}", self.index)?;
        if self.tcti.text() == Tcti::DEFAULT { Ok(()) } else { write!(f, "@{}", self.tcti.text()) }
    }
}

/// What a new anchor holds.
const START: AnchorState = AnchorState { counter: 0, digest: [0; 32] };
