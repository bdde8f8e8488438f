//! SGX itself: EGETKEY through a function of the caller's, or Gramine's files.
//!
//! Untested on hardware: what is tested is the bytes that are handed over and how answers are judged.
//!
//! *Security*: the checks that EGETKEY makes are made here too, before it is called, so that a refusal has a name even where
//! a runtime reports none. The key is the processor's business. Gramine's `/dev/attestation/keys/_sgx_mrenclave` and
//! `_sgx_mrsigner` (Gramine documentation, "Attestation and Secret Provisioning") give one key for each policy, at the
//! versions that run now, with Gramine's own masks and a zero key id: a request for anything else is refused rather than
//! answered with a key that does not depend on what was asked for.

use std::path::PathBuf;

use zeroize::Zeroizing;

use super::egetkey::Derivation;
use super::{
    Assurance, Identity, KEY_REQUEST_LEN, KeyPolicy, KeyRequest, Platform, PlatformError, PlatformKind,
    REPORT_BODY_LEN, Versions,
};
use crate::secret::Secret;

/// EGETKEY: takes a KEYREQUEST, fills the key in, or returns the code from RAX.
pub type Egetkey = Box<dyn Fn(&[u8; KEY_REQUEST_LEN], &mut [u8; 16]) -> Result<(), u32>>;

/// An enclave.
pub struct Sgx {
    identity: Identity,
    cpu_svn: [u8; 16],
    keys: Keys,
}

/// Where its keys come from.
enum Keys {
    Egetkey(Egetkey),
    /// Gramine's folder.
    Gramine(PathBuf),
}

impl Sgx {
    /// An enclave whose EGETKEY the caller supplies. `report` is the body of a REPORT that the enclave made of itself:
    /// EREPORT's answer, not the host's.
    pub fn new(report: &[u8; REPORT_BODY_LEN], egetkey: Egetkey) -> Sgx {
        Sgx::of(report, Keys::Egetkey(egetkey))
    }

    /// An enclave under Gramine. `report` is the body of the REPORT that Gramine gave; `keys` is `/dev/attestation/keys`.
    pub fn gramine(report: &[u8; REPORT_BODY_LEN], keys: PathBuf) -> Sgx {
        Sgx::of(report, Keys::Gramine(keys))
    }

    fn of(report: &[u8; REPORT_BODY_LEN], keys: Keys) -> Sgx {
        let (identity, cpu_svn) = Identity::from_report_body(report);
        Sgx { identity, cpu_svn, keys }
    }

    /// The file of the key, if Gramine's key is the one that the request asks for.
    fn gramine_file(&self, request: &KeyRequest) -> Result<&'static str, PlatformError> {
        if request.cpu_svn != self.cpu_svn {
            return Err(PlatformError::CannotBind("an older CPUSVN"));
        }
        if request.isv_svn != self.identity.isv_svn || request.config_svn != 0 {
            return Err(PlatformError::CannotBind("an older ISVSVN"));
        }
        match request.policy {
            KeyPolicy::MRENCLAVE => Ok("_sgx_mrenclave"),
            KeyPolicy::MRSIGNER => Ok("_sgx_mrsigner"),
            _ => Err(PlatformError::CannotBind("more than one of MRENCLAVE and MRSIGNER")),
        }
    }
}

impl Platform for Sgx {
    fn kind(&self) -> PlatformKind {
        PlatformKind::Sgx
    }

    fn assurance(&self) -> Assurance {
        // A debug enclave runs on the same processor, and its memory is open to the host.
        if self.identity.is_debug() { Assurance::Development } else { Assurance::Hardware }
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn versions(&self) -> Versions {
        Versions { cpu_svn: self.cpu_svn, isv_svn: self.identity.isv_svn, config_svn: self.identity.config_svn }
    }

    fn derive(&self, request: &KeyRequest) -> Result<Secret, PlatformError> {
        // How CPUSVNs compare is known to the processor alone.
        Derivation::check(request, &self.identity, &request.cpu_svn, true, &[0; 16])?;
        match &self.keys {
            Keys::Egetkey(egetkey) => {
                let mut key = Zeroizing::new([0; 16]);
                egetkey(&request.encode(), &mut key).map_err(of_code)?;
                whole(&key[..])
            }
            Keys::Gramine(folder) => {
                let unreachable =
                    |error: std::io::Error| PlatformError::Unreachable { errno: error.raw_os_error().unwrap_or(0) };
                let path = folder.join(self.gramine_file(request)?);
                whole(&Zeroizing::new(std::fs::read(path).map_err(unreachable)?))
            }
        }
    }
}

fn of_code(code: u32) -> PlatformError {
    match code {
        2 => PlatformError::InvalidAttribute,
        32 => PlatformError::InvalidCpuSvn,
        64 => PlatformError::InvalidIsvSvn,
        256 => PlatformError::InvalidKeyName,
        status => PlatformError::Refused { status },
    }
}

/// A runtime that has no key may answer with zeros, or with nothing.
fn whole(key: &[u8]) -> Result<Secret, PlatformError> {
    if key.len() != 16 || key.iter().all(|&byte| byte == 0) {
        return Err(PlatformError::Malformed);
    }
    Ok(Secret::new(key.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::flags;
    use crate::platform::{Attributes, SEAL_KEY};

    fn report(debug: bool) -> [u8; REPORT_BODY_LEN] {
        let mut body = [0; REPORT_BODY_LEN];
        body[..16].fill(9);
        body[48] = if debug { 7 } else { 5 };
        body[64..96].fill(1);
        body[128..160].fill(2);
        body[258] = 3;
        body
    }

    fn request() -> KeyRequest {
        KeyRequest {
            key_name: SEAL_KEY,
            policy: KeyPolicy::MRENCLAVE,
            isv_svn: 3,
            cpu_svn: [9; 16],
            attribute_mask: Attributes { flags: flags::INIT | flags::DEBUG, xfrm: 0 },
            key_id: [0; 32],
            misc_mask: 0,
            config_svn: 0,
        }
    }

    fn derive(platform: &dyn Platform, request: &KeyRequest) -> Result<Vec<u8>, PlatformError> {
        platform.derive(request).map(|key| key.expose().to_vec())
    }

    #[test]
    fn egetkey_gets_the_encoded_request_and_its_answers_are_judged() {
        let answering = |code: Result<(), u32>, byte: u8| {
            Sgx::new(
                &report(false),
                Box::new(move |bytes, key| {
                    assert_eq!(KeyRequest::decode(bytes), Ok(request()));
                    key.fill(byte);
                    code
                }),
            )
        };
        assert_eq!(derive(&answering(Ok(()), 7), &request()), Ok(vec![7; 16]));
        assert_eq!(derive(&answering(Ok(()), 0), &request()), Err(PlatformError::Malformed));
        for (code, error) in [
            (2, PlatformError::InvalidAttribute),
            (32, PlatformError::InvalidCpuSvn),
            (64, PlatformError::InvalidIsvSvn),
            (256, PlatformError::InvalidKeyName),
            (77, PlatformError::Refused { status: 77 }),
        ] {
            assert_eq!(derive(&answering(Err(code), 7), &request()), Err(error));
        }
        assert_eq!(answering(Ok(()), 7).assurance(), Assurance::Hardware);
    }

    #[test]
    fn what_the_processor_would_refuse_never_reaches_it() {
        let sgx = Sgx::new(&report(false), Box::new(|_, _| panic!("it was called")));
        assert_eq!(derive(&sgx, &KeyRequest { isv_svn: 4, ..request() }), Err(PlatformError::InvalidIsvSvn));
        let kss = KeyPolicy::MRENCLAVE.with(KeyPolicy::CONFIGID);
        assert_eq!(derive(&sgx, &KeyRequest { policy: kss, ..request() }), Err(PlatformError::KssOff));
    }

    #[test]
    fn a_debug_enclave_is_development() {
        assert_eq!(Sgx::new(&report(true), Box::new(|_, _| Ok(()))).assurance(), Assurance::Development);
        assert_eq!(Sgx::gramine(&report(true), "/nowhere".into()).assurance(), Assurance::Development);
    }

    #[test]
    fn gramine_answers_only_for_what_its_files_mean() {
        let folder = std::env::temp_dir().join(format!("sealing-gramine-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("_sgx_mrenclave"), [5; 16]).unwrap();
        std::fs::write(folder.join("_sgx_mrsigner"), [6; 15]).unwrap();
        let gramine = Sgx::gramine(&report(false), folder.clone());
        assert_eq!(derive(&gramine, &request()), Ok(vec![5; 16]));
        let signer = KeyRequest { policy: KeyPolicy::MRSIGNER, ..request() };
        assert_eq!(derive(&gramine, &signer), Err(PlatformError::Malformed));
        std::fs::remove_file(folder.join("_sgx_mrsigner")).unwrap();
        assert_eq!(derive(&gramine, &signer), Err(PlatformError::Unreachable { errno: 2 }));
        let both = KeyPolicy::MRENCLAVE.with(KeyPolicy::MRSIGNER);
        for request in [
            KeyRequest { policy: both, ..request() },
            KeyRequest { isv_svn: 2, ..request() },
            KeyRequest { cpu_svn: [8; 16], ..request() },
        ] {
            assert!(matches!(derive(&gramine, &request), Err(PlatformError::CannotBind(_))));
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
