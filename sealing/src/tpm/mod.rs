//! A TPM 2.0: a root key that boot states open, and registers that cannot be set back.
//!
//! ```text
//! root ─► approver ─────────────────┐
//! register ─► swap, index, writer ──┴─► connection ─► digest, error
//! ```
//! Behind the cargo feature `tpm`, which needs the libraries of tpm2-tss. They say what a TPM refused on standard error too;
//! `TSS2_LOG=all+NONE` in the environment keeps them from it; the tools start themselves once more with it.
//!
//! *Security*: see each file. The owner hierarchy's authorization is empty, as Linux leaves it: the owner can remove what
//! stands in the TPM, which is noticed, and can change none of it.

mod approver;
mod connection;
mod digest;
mod error;
mod index;
mod register;
mod root;
mod swap;
mod writer;

pub use approver::{APPROVER_LEN, ApproverKey, BootApproval, reference};
pub use connection::{Maker, Tcti};
pub use digest::{Name, PCR_COUNT, PcrSet, policy_authorize, policy_pcr, policy_secret};
pub use error::{PcrDifference, TpmError};
pub use register::{Register, RegisterKind, writer_policy};
pub use root::{Root, RootStatus, approver_name, policy};
