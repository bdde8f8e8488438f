//! An NV index of a register, as it has to be: its name is computed and compared before it is used.

use tss_esapi::attributes::NvIndexAttributes;
use tss_esapi::handles::{NvIndexHandle, NvIndexTpmHandle, ObjectHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::Provision;
use tss_esapi::structures::{Digest, NvPublic, NvPublicBuilder};

use super::connection::Connection;
use super::digest::{Name, SHA256};
use super::error::TpmError;

/// An index as it has to be.
pub(super) struct Place {
    pub(super) index: u32,
    /// Its type, as in its attributes.
    pub(super) nature: u32,
    pub(super) len: usize,
    pub(super) policy: [u8; 32],
}

impl Place {
    /// Read by anyone, written under the policy; not ORDERLY, which loses what was written on a power failure.
    fn attributes(&self, written: bool) -> NvIndexAttributes {
        let written = if written { nv::WRITTEN } else { 0 };
        NvIndexAttributes(self.nature | nv::POLICYWRITE | nv::AUTHREAD | nv::NO_DA | written)
    }

    fn public(&self) -> Result<NvPublic, TpmError> {
        let build = || {
            NvPublicBuilder::new()
                .with_nv_index(NvIndexTpmHandle::new(self.index)?)
                .with_index_name_algorithm(HashingAlgorithm::Sha256)
                .with_index_attributes(self.attributes(false))
                .with_index_auth_policy(Digest::try_from(&self.policy[..])?)
                .with_data_area_size(self.len)
                .build()
        };
        build().map_err(TpmError::of("an NV index"))
    }

    /// The name that the index has to have (TPMS_NV_PUBLIC), before or after its first write.
    pub(super) fn name(&self, written: bool) -> Name {
        let attributes = self.attributes(written);
        let len = u16::try_from(self.len).expect("a record is short");
        let policy_len = 32_u16;
        let parts: [&[u8]; 6] = [
            &self.index.to_be_bytes(),
            &SHA256.to_be_bytes(),
            &attributes.0.to_be_bytes(),
            &policy_len.to_be_bytes(),
            &self.policy,
            &len.to_be_bytes(),
        ];
        Name::of(&parts.concat())
    }

    pub(super) fn define(&self, connection: &mut Connection) -> Result<(), TpmError> {
        let public = self.public()?;
        let made = connection.in_session((true, false), "to make an NV index", |context| {
            context.nv_define_space(Provision::Owner, None, public)
        });
        made.map(|_| ())
    }

    pub(super) fn undefine(&self, connection: &mut Connection) -> Result<(), TpmError> {
        let handle = self.any_handle(connection)?;
        connection.in_session((false, false), "to remove an NV index", |context| {
            context.nv_undefine_space(Provision::Owner, handle)
        })
    }

    /// The handle of the index that was made and written.
    pub(super) fn handle(&self, connection: &mut Connection) -> Result<NvIndexHandle, TpmError> {
        let handle = self.any_handle(connection)?;
        self.demand(connection, handle, true)?;
        Ok(handle)
    }

    /// The handle of the index that was made just now.
    pub(super) fn fresh_handle(&self, connection: &mut Connection) -> Result<NvIndexHandle, TpmError> {
        let handle = self.any_handle(connection)?;
        self.demand(connection, handle, false)?;
        Ok(handle)
    }

    fn any_handle(&self, connection: &mut Connection) -> Result<NvIndexHandle, TpmError> {
        if !connection.has_index(self.index)? {
            return Err(TpmError::NoIndex(self.index));
        }
        let handle = NvIndexTpmHandle::new(self.index).map_err(|_| TpmError::BadIndex(self.index))?;
        let found = connection
            .context
            .execute_without_session(|context| context.tr_from_tpm_public(TpmHandle::NvIndex(handle)))
            .map_err(TpmError::of("an NV index"))?;
        Ok(NvIndexHandle::from(found))
    }

    /// Compares the name, which decides, and the public area, which says what differs.
    fn demand(&self, connection: &mut Connection, handle: NvIndexHandle, written: bool) -> Result<(), TpmError> {
        let named = connection.demand_name(ObjectHandle::from(handle), &self.name(written));
        let Err(TpmError::NameOfItsOwn) = named else { return named };
        let (public, _) = connection
            .context
            .execute_without_session(|context| context.nv_read_public(handle))
            .map_err(TpmError::of("an NV index"))?;
        let attributes = self.attributes(written);
        let what = if public.attributes().0 | nv::WRITTEN == attributes.0 && public.attributes() != attributes {
            "name (it was made anew, and nothing was written to it since)"
        } else if public.attributes() != attributes {
            "set of attributes"
        } else if public.authorization_policy().value() != self.policy {
            "policy (another key writes it)"
        } else {
            "name"
        };
        Err(TpmError::OtherIndex { index: self.index, what })
    }
}

/// Bits of TPMA_NV (part 2, "TPMA_NV").
pub(super) mod nv {
    pub(in crate::tpm) const ORDINARY: u32 = 0;
    pub(in crate::tpm) const COUNTER: u32 = 1 << 4;
    pub(in crate::tpm) const POLICYWRITE: u32 = 1 << 3;
    pub(in crate::tpm) const AUTHREAD: u32 = 1 << 18;
    pub(in crate::tpm) const NO_DA: u32 = 1 << 25;
    pub(in crate::tpm) const WRITTEN: u32 = 1 << 29;
}
