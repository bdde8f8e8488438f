//! `sgx-sim`: EGETKEY as the Intel SGX SDK's simulation mode derives seal keys, byte for byte.
//!
//! *Security*: the key under everything is in the SDK's source. Whoever reads a volume sealed with this platform has its
//! key. It is for development, says so in [`Assurance`], and no option changes that.

use aes::Aes128;
use cmac::{Cmac, KeyInit, Mac};
use zeroize::Zeroize;

use super::egetkey::Derivation;
use super::{Assurance, Identity, KeyRequest, Platform, PlatformError, PlatformKind, Versions};
use crate::secret::Secret;

/// A simulated processor's security version: three exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum SimCpuSvn {
    /// Before the usual one.
    Downgraded,
    /// The usual one.
    #[default]
    Default,
    /// After the usual one.
    Upgraded,
}

/// A simulated enclave.
pub struct SgxSim {
    identity: Identity,
    cpu_svn: SimCpuSvn,
}

impl SimCpuSvn {
    /// The 16 bytes that stand for it.
    pub fn bytes(self) -> [u8; 16] {
        match self {
            SimCpuSvn::Downgraded => DOWNGRADED,
            SimCpuSvn::Default => DEFAULT,
            SimCpuSvn::Upgraded => UPGRADED,
        }
    }

    /// Which one 16 bytes stand for. All zero stands for the usual one, as in the SDK.
    pub fn from_bytes(bytes: &[u8; 16]) -> Option<SimCpuSvn> {
        match *bytes {
            DOWNGRADED => Some(SimCpuSvn::Downgraded),
            DEFAULT | ZERO => Some(SimCpuSvn::Default),
            UPGRADED => Some(SimCpuSvn::Upgraded),
            _ => None,
        }
    }
}

impl SgxSim {
    /// An enclave with this identity on a processor of this version.
    pub fn new(identity: Identity, cpu_svn: SimCpuSvn) -> SgxSim {
        SgxSim { identity, cpu_svn }
    }

    /// The 16 bytes that EGETKEY leaves in the caller's memory. They are public, for the base key is.
    pub fn egetkey(&self, request: &KeyRequest) -> Result<[u8; 16], PlatformError> {
        let requested = SimCpuSvn::from_bytes(&request.cpu_svn);
        let cpu_svn = requested.map_or(request.cpu_svn, SimCpuSvn::bytes);
        let exists = requested.is_some_and(|requested| requested <= self.cpu_svn);
        let derivation = Derivation::check(request, &self.identity, &cpu_svn, exists, OWNER_EPOCH)?;
        let mut mac = <Cmac<Aes128> as KeyInit>::new(&BASE_KEY.into());
        mac.update(derivation.bytes());
        Ok(mac.finalize().into_bytes().into())
    }
}

impl Platform for SgxSim {
    fn kind(&self) -> PlatformKind {
        PlatformKind::SgxSim
    }

    fn assurance(&self) -> Assurance {
        Assurance::Development
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn versions(&self) -> Versions {
        Versions { cpu_svn: self.cpu_svn.bytes(), isv_svn: self.identity.isv_svn, config_svn: self.identity.config_svn }
    }

    fn derive(&self, request: &KeyRequest) -> Result<Secret, PlatformError> {
        let mut key = self.egetkey(request)?;
        let secret = Secret::new(key.to_vec());
        key.zeroize();
        Ok(secret)
    }
}

const BASE_KEY: [u8; 16] =
    [0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];
const OWNER_EPOCH: &[u8; 16] = b"THISISOWNEREPOCH";
const DEFAULT: [u8; 16] =
    [0x48, 0x20, 0xf3, 0x37, 0x6a, 0xe6, 0xb2, 0xf2, 0x03, 0x4d, 0x3b, 0x7a, 0x4b, 0x48, 0xa7, 0x78];
const UPGRADED: [u8; 16] =
    [0x53, 0x39, 0xae, 0x8c, 0x93, 0xae, 0x8f, 0x3c, 0xe4, 0x32, 0xdb, 0x92, 0x4d, 0x0f, 0x07, 0x33];
const DOWNGRADED: [u8; 16] =
    [0x64, 0xea, 0x4f, 0x3f, 0xa0, 0x03, 0x0c, 0x36, 0x38, 0x3c, 0x32, 0x2d, 0x4f, 0x3a, 0x8d, 0x4f];
const ZERO: [u8; 16] = [0; 16];
