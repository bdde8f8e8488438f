//! Platforms: what turns the identity of running code into keys.
//!
//! ```text
//! sgx_sim, software, tpm, sgx, snp ─► egetkey (checks, derivation) ─► key_request, identity
//! tdx (a request, as yet without a platform)
//! ```
//! One identity model serves all of them: SGX's, for it is the richest. What another platform cannot bind, it refuses.
//!
//! *Security*: a key comes out of [`Platform::derive`] only if every check of the request passed. Assurance is a property
//! of the platform's kind and is never raised by an option. Development platforms derive keys that are public or lie in a
//! file: whoever uses one says so with [`Assurance`] checked at the door ([`crate::policy`]).

mod egetkey;
mod identity;
mod key_request;
pub mod sgx;
pub mod sgx_sim;
pub mod snp;
pub mod software;
pub mod tdx;
#[cfg(feature = "tpm")]
pub mod tpm;

use core::fmt;

pub use egetkey::{DERIVATION_LEN, Derivation};
pub(crate) use egetkey::{masked, selected};
pub use identity::{Attributes, Identity, REPORT_BODY_LEN, flags};
pub use key_request::{KEY_REQUEST_LEN, KeyPolicy, KeyRequest, SEAL_KEY};

use crate::secret::Secret;

/// Which platform. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlatformKind {
    /// Intel SGX as the SDK's simulation mode derives keys: public ones.
    SgxSim = 1,
    /// A root key in a file.
    Software = 2,
    /// Intel SGX.
    Sgx = 3,
    /// AMD SEV-SNP.
    SevSnp = 4,
    /// A root key in a TPM 2.0.
    Tpm = 6,
}

/// What stands behind a platform's keys. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Assurance {
    /// Nothing: the keys are public, or whoever reads a file has them.
    Development = 1,
    /// A chain of measurements from the machine's start.
    MeasuredBoot = 2,
    /// The processor.
    Hardware = 3,
}

/// Security versions of what runs now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// Of processor and firmware; how two of them compare is the platform's business.
    pub cpu_svn: [u8; 16],
    /// Of the code.
    pub isv_svn: u16,
    /// Of its configuration.
    pub config_svn: u16,
}

/// Why a platform derived no key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlatformError {
    /// A reserved bit or byte of the request is set; EGETKEY answers with a general protection fault.
    Reserved,
    /// The request uses key separation and sharing, and the enclave has not; a general protection fault too.
    KssOff,
    /// The enclave lacks the attribute that the key's name demands.
    InvalidAttribute,
    /// The requested CPUSVN is beyond the current one, or none that exists.
    InvalidCpuSvn,
    /// The requested ISVSVN or CONFIGSVN is beyond the current one.
    InvalidIsvSvn,
    /// Only seal keys can be asked for.
    InvalidKeyName,
    /// The platform cannot bind a key to this field.
    CannotBind(&'static str),
    /// The platform's device or file failed; the operating system's error number, or 0.
    Unreachable {
        /// As in errno(3).
        errno: i32,
    },
    /// The platform answered with a status of its own, such as SEV-SNP firmware's.
    Refused {
        /// The platform's own number.
        status: u32,
    },
    /// What came back is no key: too short, too long, or all zero.
    Malformed,
    /// The machine is in no boot state that was approved.
    NotApproved,
}

/// A field in which what runs here is not what something was sealed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The field.
    pub field: &'static str,
    /// Its value there.
    pub sealed: String,
    /// Its value here.
    pub here: String,
}

/// What derives keys for the code that runs.
pub trait Platform {
    /// Which platform.
    fn kind(&self) -> PlatformKind;
    /// What stands behind its keys.
    fn assurance(&self) -> Assurance;
    /// Who asks.
    fn identity(&self) -> &Identity;
    /// The current security versions: what new data is sealed at.
    fn versions(&self) -> Versions;
    /// The key for a request, after all checks: 16 bytes on SGX, 32 elsewhere.
    fn derive(&self, request: &KeyRequest) -> Result<Secret, PlatformError>;
    /// What keeps it from deriving any key, whatever the request; empty where it derives some. The values are public.
    fn refusals(&self) -> Vec<Difference> {
        Vec::new()
    }
}

impl PlatformKind {
    /// The stored number.
    pub fn number(self) -> u16 {
        match self {
            PlatformKind::SgxSim => 1,
            PlatformKind::Software => 2,
            PlatformKind::Sgx => 3,
            PlatformKind::SevSnp => 4,
            PlatformKind::Tpm => 6,
        }
    }

    /// The kind of a stored number. 5 is reserved for TDX.
    pub fn from_number(number: u16) -> Option<PlatformKind> {
        match number {
            1 => Some(PlatformKind::SgxSim),
            2 => Some(PlatformKind::Software),
            3 => Some(PlatformKind::Sgx),
            4 => Some(PlatformKind::SevSnp),
            6 => Some(PlatformKind::Tpm),
            _ => None,
        }
    }

    /// The name on a command line.
    pub fn name(self) -> &'static str {
        match self {
            PlatformKind::SgxSim => "sgx-sim",
            PlatformKind::Software => "software",
            PlatformKind::Sgx => "sgx",
            PlatformKind::SevSnp => "sev-snp",
            PlatformKind::Tpm => "tpm",
        }
    }
}

impl Assurance {
    /// The stored number.
    pub fn number(self) -> u8 {
        match self {
            Assurance::Development => 1,
            Assurance::MeasuredBoot => 2,
            Assurance::Hardware => 3,
        }
    }

    /// The assurance of a stored number.
    pub fn from_number(number: u8) -> Option<Assurance> {
        match number {
            1 => Some(Assurance::Development),
            2 => Some(Assurance::MeasuredBoot),
            3 => Some(Assurance::Hardware),
            _ => None,
        }
    }
}

impl fmt::Display for Assurance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Assurance::Development => "development",
            Assurance::MeasuredBoot => "measured boot",
            Assurance::Hardware => "hardware",
        })
    }
}

impl PlatformError {
    /// The code that EGETKEY leaves in RAX (Intel SDM volume 3D, "EGETKEY"); none for what is a fault there, or is not SGX's.
    pub fn sgx_code(&self) -> Option<u32> {
        match self {
            PlatformError::InvalidAttribute => Some(2),
            PlatformError::InvalidCpuSvn => Some(32),
            PlatformError::InvalidIsvSvn => Some(64),
            PlatformError::InvalidKeyName => Some(256),
            _ => None,
        }
    }
}

impl fmt::Display for PlatformError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlatformError::Reserved => f.write_str("a reserved bit of the key request is set"),
            PlatformError::KssOff => {
                f.write_str("the request needs key separation and sharing (KSS), which the enclave does not have")
            }
            PlatformError::InvalidAttribute => f.write_str("the enclave lacks the attribute that this key demands"),
            PlatformError::InvalidCpuSvn => f.write_str("the CPUSVN asked for is beyond the current one"),
            PlatformError::InvalidIsvSvn => f.write_str("the ISVSVN or CONFIGSVN asked for is beyond the current one"),
            PlatformError::InvalidKeyName => f.write_str("only seal keys can be derived"),
            PlatformError::CannotBind(field) => write!(f, "this platform cannot bind a key to {field}"),
            PlatformError::Unreachable { errno } => write!(f, "the platform cannot be reached (error {errno})"),
            PlatformError::Refused { status } => write!(f, "the platform refused (status {status:#x})"),
            PlatformError::Malformed => f.write_str("what the platform answered is no key"),
            PlatformError::NotApproved => f.write_str("the boot state of this machine was not approved"),
        }
    }
}

impl core::error::Error for PlatformError {}
