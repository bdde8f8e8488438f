//! One connection to a TPM: its storage key, and sessions that are salted to it.
//!
//! The storage key is a primary key of the owner hierarchy (P-256, AES-128-CFB), derived by the TPM from its owner seed for
//! each connection and gone with it. Only a TPM that was not cleared since has the same one, so its Name says which TPM this is.
//!
//! *Security*: whoever sits between processor and TPM sees and changes every byte. Each session is salted to the storage key,
//! whose Name is computed here from its public area and compared with the pinned one; what goes through a session is
//! authenticated in both directions, and its first parameter is encrypted where it is a secret. Nothing stays in the TPM: a
//! connection takes its handles along.

use std::str::FromStr;

use tss_esapi::Context;
use tss_esapi::attributes::{ObjectAttributesBuilder, SessionAttributesBuilder};
use tss_esapi::constants::{CapabilityType, PropertyTag, SessionType};
use tss_esapi::handles::{KeyHandle, ObjectHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{
    CapabilityData, EccPoint, PcrSelectionListBuilder, PcrSlot, Public, PublicBuilder, PublicEccParametersBuilder,
    SymmetricDefinition, SymmetricDefinitionObject,
};
use tss_esapi::tcti_ldr::TctiNameConf;
use tss_esapi::traits::Marshall;

use super::digest::{Name, PcrSet};
use super::error::TpmError;

/// The way to a TPM: `device:/dev/tpmrm0`, `swtpm:host=127.0.0.1,port=2321`; `swtpm:127.0.0.1:2321` is short for the latter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcti(String);

/// A connection.
pub(super) struct Connection {
    pub(super) context: Context,
    pub(super) storage: KeyHandle,
    pub(super) storage_name: Name,
}

/// What a TPM says of its maker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maker {
    /// Four letters from the TCG's list.
    pub manufacturer: String,
    /// The maker's own words.
    pub vendor: String,
    /// The firmware's version, as the maker counts.
    pub firmware: u64,
}

impl Tcti {
    /// The kernel's resource manager.
    pub const DEFAULT: &str = "device:/dev/tpmrm0";

    /// The way as text.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Whether it leads to a device of the kernel's. All else is a program's word.
    pub fn is_device(&self) -> bool {
        self.0.starts_with("device")
    }
}

impl FromStr for Tcti {
    type Err = TpmError;

    fn from_str(text: &str) -> Result<Tcti, TpmError> {
        let long = match text.split(':').collect::<Vec<_>>()[..] {
            [kind @ ("swtpm" | "mssim"), host, port] if !host.contains('=') => {
                format!("{kind}:host={host},port={port}")
            }
            _ => text.to_string(),
        };
        TctiNameConf::from_str(&long).map_err(|_| TpmError::Tcti(text.to_string()))?;
        Ok(Tcti(long))
    }
}

impl Connection {
    /// Connects, and demands that the storage key is the pinned one, if one is.
    pub(super) fn open(tcti: &Tcti, pinned: Option<&Name>) -> Result<Connection, TpmError> {
        let conf = TctiNameConf::from_str(&tcti.0).map_err(|_| TpmError::Tcti(tcti.0.clone()))?;
        let mut context = Context::new(conf).map_err(|error| TpmError::Unreachable(format!("{} ({error})", tcti.0)))?;
        let template = storage_template().map_err(TpmError::of("a template"))?;
        let made = context
            .execute_with_nullauth_session(|context| {
                context.create_primary(Hierarchy::Owner, template, None, None, None, None)
            })
            .map_err(TpmError::of("its storage key"))?;
        let storage_name = name_of(&made.out_public)?;
        let mut connection = Connection { context, storage: made.key_handle, storage_name };
        connection.demand_name(made.key_handle.into(), &storage_name)?;
        match pinned {
            Some(&pinned) if pinned != storage_name => Err(TpmError::OtherTpm { pinned, here: storage_name }),
            _ => Ok(connection),
        }
    }

    /// One command in a salted session of its own. A TPM without a resource manager holds three.
    pub(super) fn in_session<T>(
        &mut self,
        (sent, received): (bool, bool),
        command: &'static str,
        run: impl FnOnce(&mut Context) -> tss_esapi::Result<T>,
    ) -> Result<T, TpmError> {
        let session = self.session(sent, received)?;
        let done = self.context.execute_with_session(Some(session), run).map_err(TpmError::of(command));
        let ended = self.end(session);
        let done = done?;
        ended.map(|()| done)
    }

    /// Ends a session.
    pub(super) fn end(&mut self, session: AuthSession) -> Result<(), TpmError> {
        self.context.flush_context(SessionHandle::from(session).into()).map_err(TpmError::of("to end a session"))
    }

    /// A salted session whose secret parameters are encrypted: those that are sent, those that come back, or both.
    pub(super) fn session(&mut self, sent: bool, received: bool) -> Result<AuthSession, TpmError> {
        self.salted(SessionType::Hmac, sent, received)
    }

    /// A salted session for a policy.
    pub(super) fn policy_session(
        &mut self,
        sent: bool,
        received: bool,
    ) -> Result<(AuthSession, PolicySession), TpmError> {
        let session = self.salted(SessionType::Policy, sent, received)?;
        let policy = PolicySession::try_from(session).map_err(TpmError::of("a policy session"))?;
        Ok((session, policy))
    }

    fn salted(&mut self, kind: SessionType, sent: bool, received: bool) -> Result<AuthSession, TpmError> {
        let refused = TpmError::of("a session");
        let (storage, aes) = (self.storage, SymmetricDefinition::AES_128_CFB);
        let session = self
            .context
            .execute_without_session(|context| {
                context.start_auth_session(Some(storage), None, None, kind, aes, HashingAlgorithm::Sha256)
            })
            .map_err(&refused)?
            .ok_or(TpmError::Refused { command: "a session", reason: "there is none".to_string() })?;
        let (attributes, mask) = SessionAttributesBuilder::new()
            .with_continue_session(true)
            .with_decrypt(sent)
            .with_encrypt(received)
            .build();
        self.context.tr_sess_set_attributes(session, attributes, mask).map_err(&refused)?;
        Ok(session)
    }

    /// Demands that the TPM calls an object what its public area makes it.
    pub(super) fn demand_name(&mut self, object: ObjectHandle, name: &Name) -> Result<(), TpmError> {
        let given = self.context.tr_get_name(object).map_err(TpmError::of("a name"))?;
        if given.value() == name.0 { Ok(()) } else { Err(TpmError::NameOfItsOwn) }
    }

    /// What the registers hold, ascending. Not authenticated: a policy decides, this explains.
    pub(super) fn pcr_values(&mut self, set: PcrSet) -> Result<Vec<[u8; 32]>, TpmError> {
        // A TPM answers with eight values at most.
        let mut values = Vec::new();
        for register in set.registers() {
            let selection = PcrSelectionListBuilder::new()
                .with_selection(HashingAlgorithm::Sha256, &[slot(register)])
                .build()
                .map_err(TpmError::of("a selection"))?;
            let (_, _, digests) = self
                .context
                .execute_without_session(|context| context.pcr_read(selection))
                .map_err(TpmError::of("its PCRs"))?;
            let value = digests.value().first().and_then(|digest| digest.value().try_into().ok());
            values.push(value.ok_or(TpmError::NoBank)?);
        }
        Ok(values)
    }

    /// What the TPM says of its maker.
    pub(super) fn maker(&mut self) -> Result<Maker, TpmError> {
        let mut property = |tag| {
            let value = self.context.get_tpm_property(tag).map_err(TpmError::of("its properties"))?;
            Ok(value.unwrap_or_default())
        };
        let manufacturer = letters(&[property(PropertyTag::Manufacturer)?]);
        let vendor = letters(&[
            property(PropertyTag::VendorString1)?,
            property(PropertyTag::VendorString2)?,
            property(PropertyTag::VendorString3)?,
            property(PropertyTag::VendorString4)?,
        ]);
        let (high, low) = (property(PropertyTag::FirmwareVersion1)?, property(PropertyTag::FirmwareVersion2)?);
        Ok(Maker { manufacturer, vendor, firmware: u64::from(high) << 32 | u64::from(low) })
    }

    /// Whether an NV index exists. Asked for in a list, for asking for a missing one makes the TPM's library complain.
    pub(super) fn has_index(&mut self, index: u32) -> Result<bool, TpmError> {
        let (found, _) = self
            .context
            .execute_without_session(|context| context.get_capability(CapabilityType::Handles, index, 1))
            .map_err(TpmError::of("its handles"))?;
        match found {
            CapabilityData::Handles(handles) => Ok(handles.iter().any(|&handle| u32::from(handle) == index)),
            _ => Ok(false),
        }
    }
}

/// The name that an object with this public area has.
pub(super) fn name_of(public: &Public) -> Result<Name, TpmError> {
    Ok(Name::of(&public.marshall().map_err(TpmError::of("a public area"))?))
}

pub(super) fn slot(register: u8) -> PcrSlot {
    // One bit of 24, and each has a slot.
    PcrSlot::try_from(1_u32 << register).expect("a register exists")
}

fn storage_template() -> tss_esapi::Result<Public> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(true)
        .with_decrypt(true)
        .build()?;
    let aes = SymmetricDefinitionObject::AES_128_CFB;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(
            PublicEccParametersBuilder::new_restricted_decryption_key(aes, EccCurve::NistP256).build()?,
        )
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
}

/// Letters in words, four in each, as the TCG stores them: padded with zeros or spaces.
fn letters(words: &[u32]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).filter(|&byte| byte != 0).collect();
    let text: String = String::from_utf8_lossy(&bytes).chars().filter(|letter| !letter.is_control()).collect();
    text.trim().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_a_tpm_has_a_short_form() {
        let text = |given: &str| given.parse::<Tcti>().map(|tcti| tcti.text().to_string());
        let long = "swtpm:host=127.0.0.1,port=2321";
        assert_eq!(text("swtpm:127.0.0.1:2321"), Ok(long.to_string()));
        assert_eq!(text(long), Ok(long.to_string()));
        assert_eq!(text(Tcti::DEFAULT), Ok(Tcti::DEFAULT.to_string()));
        for wrong in ["", "tpm", "/dev/tpm0", "swtpm:127.0.0.1:x"] {
            assert_eq!(text(wrong), Err(TpmError::Tcti(wrong.to_string())), "{wrong}");
        }
    }
}
