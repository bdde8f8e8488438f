//! Why something does not open here, and what would no longer open if something changed.
//!
//! *Security*: what is explained did not open, so its header is the host's word: every answer is a hint, and whoever shows
//! it says so. Nothing here touches a key. The values shown are measurements and versions, which are public.

use crate::blob::BlobUse;
use crate::blob_header::BlobHeader;
pub use crate::platform::Difference;
use crate::platform::{Identity, KeyPolicy, PlatformKind, Versions};

/// A change that somebody plans or fears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The code is built anew: another MRENCLAVE, the same signer, a version that is not lower.
    NewMrenclave,
    /// The processor's security version goes up.
    CpuSvnUp,
    /// The TPM is cleared.
    TpmClear,
    /// Boot measurements change.
    PcrChange,
}

/// Every field that keeps a blob from opening on such a platform. Empty: by its header it should open, so it was changed,
/// or the platform has other root keys, as another processor has.
pub fn explain(
    header: &BlobHeader,
    kind: PlatformKind,
    identity: &Identity,
    versions: &Versions,
    wanted: Option<&BlobUse>,
) -> Vec<Difference> {
    let mut out = Differences(Vec::new());
    out.compare("platform", header.kind.name().into(), kind.name().into());
    if let Some(wanted) = wanted {
        out.compare("purpose", header.blob_use.purpose.text().into(), wanted.purpose.text().into());
        out.compare("volume id", hex(&header.blob_use.volume_id), hex(&wanted.volume_id));
    }
    if header.kind != kind {
        // Another platform's words mean something else.
        return out.0;
    }
    out.identity(header, identity);
    out.versions(header, versions);
    out.0
}

/// Whether a blob still opens after a change, by its header.
pub fn survives(header: &BlobHeader, change: Change) -> bool {
    match change {
        Change::NewMrenclave => !header.policy.bits().has(KeyPolicy::MRENCLAVE),
        // Keys of older versions stay derivable.
        Change::CpuSvnUp => true,
        Change::TpmClear | Change::PcrChange => header.kind != PlatformKind::Tpm,
    }
}

struct Differences(Vec<Difference>);

impl Differences {
    fn compare(&mut self, field: &'static str, sealed: String, here: String) {
        if sealed != here {
            self.0.push(Difference { field, sealed, here });
        }
    }

    fn identity(&mut self, header: &BlobHeader, identity: &Identity) {
        let here = header.sealed_to(identity);
        let sealed = &header.identity;
        let debug = |identity: &Identity| if identity.is_debug() { "debug" } else { "production" }.to_string();
        self.compare("debug", debug(sealed), debug(&here));
        self.compare("attribute flags (masked)", word(sealed.attributes.flags), word(here.attributes.flags));
        self.compare("attribute xfrm (masked)", word(sealed.attributes.xfrm), word(here.attributes.xfrm));
        self.compare("miscselect (masked)", word(sealed.misc_select.into()), word(here.misc_select.into()));
        self.compare("isvprodid", sealed.isv_prod_id.to_string(), here.isv_prod_id.to_string());
        let fields: [(&'static str, &[u8], &[u8]); 5] = [
            ("mrenclave", &sealed.mrenclave, &here.mrenclave),
            ("mrsigner", &sealed.mrsigner, &here.mrsigner),
            ("configid", &sealed.config_id, &here.config_id),
            ("isvfamilyid", &sealed.isv_family_id, &here.isv_family_id),
            ("isvextprodid", &sealed.isv_ext_prod_id, &here.isv_ext_prod_id),
        ];
        for (field, sealed, here) in fields {
            self.compare(field, hex(sealed), hex(here));
        }
    }

    /// Only versions beyond the current ones keep a key away.
    fn versions(&mut self, header: &BlobHeader, versions: &Versions) {
        for (field, sealed, here) in
            [("isvsvn", header.isv_svn, versions.isv_svn), ("configsvn", header.config_svn, versions.config_svn)]
        {
            if sealed > here {
                self.compare(field, sealed.to_string(), here.to_string());
            }
        }
        // How CPUSVNs compare is the platform's business; on SGX a difference alone is no reason.
        if header.cpu_svn != versions.cpu_svn && header.kind != PlatformKind::Sgx {
            let beyond = match header.kind {
                PlatformKind::SgxSim => {
                    use crate::platform::sgx_sim::SimCpuSvn;
                    SimCpuSvn::from_bytes(&header.cpu_svn) > SimCpuSvn::from_bytes(&versions.cpu_svn)
                        || SimCpuSvn::from_bytes(&header.cpu_svn).is_none()
                }
                _ => header.cpu_svn.iter().zip(&versions.cpu_svn).any(|(sealed, here)| sealed > here),
            };
            if beyond {
                self.compare("cpusvn", hex(&header.cpu_svn), hex(&versions.cpu_svn));
            }
        }
    }
}

fn word(value: u64) -> String {
    format!("{value:#x}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
