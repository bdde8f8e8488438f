//! Why a TPM gave nothing.

use core::fmt;

use super::digest::Name;

/// A register that holds something else than what was approved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PcrDifference {
    /// The register.
    pub register: u8,
    /// What the nearest approval says.
    pub approved: [u8; 32],
    /// What it holds.
    pub here: [u8; 32],
}

/// Why a TPM gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TpmError {
    /// The way to the TPM makes no sense.
    Tcti(String),
    /// The TPM cannot be reached.
    Unreachable(String),
    /// The TPM refused a command: which, and what it said.
    Refused {
        /// What was asked for.
        command: &'static str,
        /// The TPM's words.
        reason: String,
    },
    /// Its storage key is not the pinned one: another TPM, or one that was cleared.
    OtherTpm {
        /// The pinned name.
        pinned: Name,
        /// The name here.
        here: Name,
    },
    /// The TPM calls an object by another name than its public area has.
    NameOfItsOwn,
    /// The sealed root's public area has not the type, attributes and policy that a root has.
    NotARoot(&'static str),
    /// The sealed root is not the pinned one.
    OtherRoot {
        /// The pinned name.
        pinned: Name,
        /// The name of what is there.
        here: Name,
    },
    /// No boot state was approved.
    NothingApproved,
    /// An approval has as many values as registers are selected; this one has not.
    Approval,
    /// The machine is in no boot state that was approved: what differs from the nearest.
    NotApproved(Vec<PcrDifference>),
    /// The approval of this boot state is not signed by the approver.
    NotSigned,
    /// The approver's key is not one.
    Approver,
    /// The TPM has no SHA-256 bank with all of these registers.
    NoBank,
    /// The NV index does not exist.
    NoIndex(u32),
    /// The NV index exists already.
    IndexExists(u32),
    /// An index number that is not one for an owner's use.
    BadIndex(u32),
    /// The NV index is not the one that the volume's key may write, or was made anew.
    OtherIndex {
        /// The index.
        index: u32,
        /// What differs.
        what: &'static str,
    },
    /// The NV index holds something that does not follow from the protocol: it was tampered with, or two crashes came in a row.
    Torn,
    /// It does not hold what it should be replaced for, or somebody else writes too.
    Conflict,
    /// The random generator failed.
    Rng,
}

impl TpmError {
    /// Turns the library's error for `command` into ours.
    pub(super) fn of(command: &'static str) -> impl Fn(tss_esapi::Error) -> TpmError {
        move |error| TpmError::Refused { command, reason: error.to_string() }
    }
}

impl fmt::Display for TpmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TpmError::Tcti(text) => write!(f, "'{text}' names no TPM"),
            TpmError::Unreachable(why) => write!(f, "the TPM cannot be reached: {why}"),
            TpmError::Refused { command, reason } => write!(f, "the TPM refused {command}: {reason}"),
            TpmError::OtherTpm { .. } => {
                f.write_str("this is another TPM, or it was cleared: its storage key is not the pinned one")
            }
            TpmError::NameOfItsOwn => f.write_str("the TPM calls an object by a name that it has not"),
            TpmError::NotARoot(what) => write!(f, "the sealed object is no root: its {what} is not a root's"),
            TpmError::OtherRoot { .. } => f.write_str("the sealed root is not the pinned one"),
            TpmError::NothingApproved => f.write_str("no boot state was approved"),
            TpmError::Approval => f.write_str("an approval has not one value for each selected PCR"),
            TpmError::NotApproved(differences) => {
                f.write_str("this boot state was not approved:")?;
                differences.iter().enumerate().try_for_each(|(index, it)| {
                    let separator = if index > 0 { "," } else { "" };
                    write!(f, "{separator} PCR {} is {}, approved is {}", it.register, Hex(&it.here), Hex(&it.approved))
                })
            }
            TpmError::NotSigned => f.write_str("the approval of this boot state is not signed by the approver"),
            TpmError::Approver => f.write_str("the approver's key is no point of P-256"),
            TpmError::NoBank => f.write_str("the TPM has no SHA-256 bank with these PCRs"),
            TpmError::NoIndex(index) => write!(f, "the TPM has no NV index {index:#x}"),
            TpmError::IndexExists(index) => write!(f, "the TPM has an NV index {index:#x} already"),
            TpmError::BadIndex(index) => write!(f, "{index:#x} is no NV index for an owner's use"),
            TpmError::OtherIndex { index, what } => {
                write!(f, "the NV index {index:#x} is not the one that was made: its {what} differs")
            }
            TpmError::Torn => f.write_str("the NV index and its counter do not fit each other"),
            TpmError::Conflict => f.write_str("the NV index was advanced by somebody else"),
            TpmError::Rng => f.write_str("the random generator failed"),
        }
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl core::error::Error for TpmError {}
