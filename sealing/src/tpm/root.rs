//! A root key in a TPM: sealed to whatever boot states an approver signs.
//!
//! The object is a sealed data object under the storage key, 32 random bytes, usable under one policy only: PolicyAuthorize
//! with the approver's key. A boot state opens it if the approver signed the policy "these PCRs have these values". So an
//! update of the machine needs a signature, and neither the root nor what it protects changes.
//!
//! *Security*: the object's Name covers its type, attributes and policy, and through `unique` its content too. It is computed
//! here and compared with the pinned one, and so is the storage key's; type, attributes and policy are compared with those
//! that [`Root::create`] makes, so that a blob with the host's own content or with a weaker policy is not taken. The key
//! comes over the bus encrypted. An approval is never revoked: whoever kept it, and can bring the machine into that boot
//! state, opens the root. Making a new root does revoke.

use tss_esapi::attributes::{ObjectAttributes, ObjectAttributesBuilder};
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::PolicySession;
use tss_esapi::structures::{
    Digest, EccParameter, EccSignature, KeyedHashScheme, Nonce, PcrSelectionListBuilder, Private, Public,
    PublicBuilder, PublicKeyedHashParameters, SensitiveData, Signature,
};
use tss_esapi::traits::{Marshall, UnMarshall};

use super::approver::{APPROVER_LEN, BootApproval, public_area, reference};
use super::connection::{Connection, Maker, Tcti, name_of, slot};
use super::digest::{Name, PcrSet, policy_authorize, policy_pcr};
use super::error::{PcrDifference, TpmError};
use crate::rng::Rng;
use crate::secret::Key;

/// A sealed root key, and all that is pinned of it. Nothing in it is secret; whoever can change it can put a root of his own
/// into it, which opens nothing that exists and protects nothing that is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The way to the TPM.
    pub tcti: Tcti,
    /// The storage key's name: which TPM, and that it was not cleared.
    pub storage: Name,
    /// The object's name.
    pub name: Name,
    /// The object's public area (TPMT_PUBLIC).
    pub public: Vec<u8>,
    /// The object's private area, encrypted by the TPM (TPM2B_PRIVATE's content).
    pub private: Vec<u8>,
    /// The key that approves boot states.
    pub approver: [u8; APPROVER_LEN],
    /// The registers that make up a boot state.
    pub pcrs: PcrSet,
    /// The boot states that open it.
    pub approvals: Vec<BootApproval>,
}

/// What a TPM and its boot state are to a root.
pub struct RootStatus {
    /// Who made the TPM.
    pub maker: Maker,
    /// What the registers hold, ascending.
    pub values: Vec<[u8; 32]>,
    /// Why the root does not open, if it does not.
    pub refusal: Option<TpmError>,
}

impl Root {
    /// Seals a fresh root key. No boot state is approved yet.
    pub fn create(tcti: &Tcti, approver: &[u8; APPROVER_LEN], pcrs: PcrSet, rng: &dyn Rng) -> Result<Root, TpmError> {
        let mut connection = Connection::open(tcti, None)?;
        // Nobody could ever open a root that is sealed to registers that are not there.
        connection.pcr_values(pcrs)?;
        let key = Key::random(rng).map_err(|_| TpmError::Rng)?;
        let template = template(&policy(approver)?).map_err(TpmError::of("a template"))?;
        let sensitive = SensitiveData::try_from(&key.expose()[..]).map_err(TpmError::of("a template"))?;
        let storage = connection.storage;
        let made = connection.in_session((true, false), "to seal", |context| {
            context.create(storage, template, None, Some(sensitive), None, None)
        })?;
        let root = Root {
            tcti: tcti.clone(),
            storage: connection.storage_name,
            name: name_of(&made.out_public)?,
            public: made.out_public.marshall().map_err(TpmError::of("to seal"))?,
            private: made.out_private.value().to_vec(),
            approver: *approver,
            pcrs,
            approvals: Vec::new(),
        };
        root.public_area()?;
        Ok(root)
    }

    /// The root key, if the machine is in a boot state that was approved.
    pub fn open(&self) -> Result<Key, TpmError> {
        self.open_in(&mut Connection::open(&self.tcti, Some(&self.storage))?)
    }

    /// Whether it opens, and what is to be said of the TPM. An error: nothing can be said.
    pub fn status(&self) -> Result<RootStatus, TpmError> {
        let mut connection = Connection::open(&self.tcti, None)?;
        let (maker, values) = (connection.maker()?, connection.pcr_values(self.pcrs)?);
        let refusal = if connection.storage_name == self.storage {
            self.open_in(&mut connection).err()
        } else {
            Some(TpmError::OtherTpm { pinned: self.storage, here: connection.storage_name })
        };
        Ok(RootStatus { maker, values, refusal })
    }

    /// The root key, if it opens, and the TPM's maker.
    pub(crate) fn open_with_maker(&self) -> Result<(Maker, Result<Key, TpmError>), TpmError> {
        let mut connection = Connection::open(&self.tcti, Some(&self.storage))?;
        Ok((connection.maker()?, self.open_in(&mut connection)))
    }

    fn open_in(&self, connection: &mut Connection) -> Result<Key, TpmError> {
        let public = self.public_area()?;
        let approval = self.approval_of(&connection.pcr_values(self.pcrs)?)?;
        let private = Private::try_from(self.private.clone()).map_err(TpmError::of("its private area"))?;
        let storage = connection.storage;
        let object = connection
            .in_session((false, false), "to load the root", |context| context.load(storage, private, public))?;
        connection.demand_name(object.into(), &self.name)?;
        let (session, policy) = connection.policy_session(false, true)?;
        self.satisfy(connection, policy, approval)?;
        let data = connection
            .context
            .execute_with_session(Some(session), |context| context.unseal(object.into()))
            .map_err(TpmError::of("to unseal the root"))?;
        let bytes: &[u8; 32] = data.value().try_into().map_err(|_| TpmError::NotARoot("length"))?;
        Ok(Key::from_bytes(bytes))
    }

    /// Brings a session to the root's policy: the boot state, then its approval.
    fn satisfy(
        &self,
        connection: &mut Connection,
        policy: PolicySession,
        approval: &BootApproval,
    ) -> Result<(), TpmError> {
        let approver = public_area(&self.approver)?;
        let approver_name = name_of(&approver)?;
        let boot_state = policy_pcr(self.pcrs, &approval.values);
        let message = super::digest::approved(&boot_state, &reference());
        let slots: Vec<_> = self.pcrs.registers().map(slot).collect();
        connection.context.execute_without_session(|context| {
            let selection = PcrSelectionListBuilder::new()
                .with_selection(HashingAlgorithm::Sha256, &slots)
                .build()
                .map_err(TpmError::of("a selection"))?;
            // Without a digest: the session takes what the registers hold, and the approval has to fit that.
            context.policy_pcr(policy, Digest::default(), selection).map_err(TpmError::of("the boot state"))?;
            let key =
                context.load_external_public(approver, Hierarchy::Owner).map_err(TpmError::of("the approver's key"))?;
            let ticket = context
                .verify_signature(key, digest(&message)?, signature(approval)?)
                .map_err(|_| TpmError::NotSigned)?;
            let reference = Nonce::try_from(reference().to_vec()).map_err(TpmError::of("a reference"))?;
            let name = tss_esapi::structures::Name::try_from(approver_name.0.to_vec())
                .map_err(TpmError::of("the approver's name"))?;
            context
                .policy_authorize(policy, digest(&boot_state)?, reference, &name, ticket)
                .map_err(TpmError::of("the approval"))?;
            context.flush_context(key.into()).map_err(TpmError::of("to forget a key"))
        })
    }

    /// The approval for these values. Otherwise what keeps the nearest one from being it.
    fn approval_of(&self, values: &[[u8; 32]]) -> Result<&BootApproval, TpmError> {
        if self.approvals.iter().any(|approval| approval.values.len() != self.pcrs.count()) {
            return Err(TpmError::Approval);
        }
        if let Some(approval) = self.approvals.iter().find(|approval| approval.values == values) {
            return Ok(approval);
        }
        let differences = |approval: &BootApproval| -> Vec<PcrDifference> {
            let both = self.pcrs.registers().zip(approval.values.iter().zip(values));
            let differing = both.filter(|(_, (approved, here))| approved != here);
            let named = differing.map(|(register, (&approved, &here))| PcrDifference { register, approved, here });
            named.collect()
        };
        // Of several that are equally near, the newest.
        let nearest = self.approvals.iter().rev().map(differences).min_by_key(Vec::len);
        Err(nearest.map_or(TpmError::NothingApproved, TpmError::NotApproved))
    }

    /// The object's public area, which is a root's and has the pinned name.
    fn public_area(&self) -> Result<Public, TpmError> {
        let public = Public::unmarshall(&self.public).map_err(|_| TpmError::NotARoot("public area"))?;
        let here = name_of(&public)?;
        if here != self.name {
            return Err(TpmError::OtherRoot { pinned: self.name, here });
        }
        let Public::KeyedHash { parameters, .. } = &public else { return Err(TpmError::NotARoot("type")) };
        if *parameters != PublicKeyedHashParameters::new(KeyedHashScheme::Null) {
            return Err(TpmError::NotARoot("scheme"));
        }
        if public.name_hashing_algorithm() != HashingAlgorithm::Sha256 {
            return Err(TpmError::NotARoot("digest"));
        }
        if public.object_attributes() != attributes().map_err(TpmError::of("a template"))? {
            return Err(TpmError::NotARoot("set of attributes"));
        }
        if public.auth_policy().value() != policy(&self.approver)? {
            return Err(TpmError::NotARoot("policy"));
        }
        Ok(public)
    }
}

/// The policy of a root: whatever the approver signs.
pub fn policy(approver: &[u8; APPROVER_LEN]) -> Result<[u8; 32], TpmError> {
    Ok(policy_authorize(&name_of(&public_area(approver)?)?, &reference()))
}

/// The name of the approver's key, as the TPM has it.
pub fn approver_name(approver: &[u8; APPROVER_LEN]) -> Result<Name, TpmError> {
    name_of(&public_area(approver)?)
}

/// Neither its authorization nor its parent's opens or moves it: the policy alone does.
fn attributes() -> tss_esapi::Result<ObjectAttributes> {
    ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_admin_with_policy(true)
        .with_no_da(true)
        .build()
}

fn template(policy: &[u8; 32]) -> tss_esapi::Result<Public> {
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::KeyedHash)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes()?)
        .with_auth_policy(Digest::try_from(&policy[..])?)
        .with_keyed_hash_parameters(PublicKeyedHashParameters::new(KeyedHashScheme::Null))
        .with_keyed_hash_unique_identifier(Digest::default())
        .build()
}

fn digest(bytes: &[u8; 32]) -> Result<Digest, TpmError> {
    Digest::try_from(&bytes[..]).map_err(TpmError::of("a digest"))
}

fn signature(approval: &BootApproval) -> Result<Signature, TpmError> {
    let half = |bytes: &[u8]| EccParameter::try_from(bytes).map_err(TpmError::of("a signature"));
    let (r, s) = approval.signature.split_at(32);
    let ecc = EccSignature::create(HashingAlgorithm::Sha256, half(r)?, half(s)?);
    Ok(Signature::EcDsa(ecc.map_err(TpmError::of("a signature"))?))
}
