//! Who may write a register: whoever has the key that its policy's object derives from.

use std::time::{Duration, Instant};

use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::handles::{AuthHandle, KeyHandle, ObjectHandle};
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::structures::{
    Auth, Digest, KeyedHashScheme, Nonce, Public, PublicBuilder, PublicKeyedHashParameters, Sensitive, SensitiveData,
};
use tss_esapi::{Context, Error};

use super::connection::{Connection, name_of};
use super::digest::{hash, policy_secret};
use super::error::TpmError;
use crate::secret::Key;

/// The key object that a register's policy names.
pub(super) struct Writer {
    auth: Key,
    seed: Key,
    data: Key,
    /// PolicySecret with the object.
    pub(super) policy: [u8; 32],
    public: Public,
}

impl Writer {
    /// Derives the object from the caller's key.
    pub(super) fn new(key: &Key) -> Result<Writer, TpmError> {
        let derive = |label: &[u8]| {
            let hkdf = hkdf::Hkdf::<sha2::Sha256>::from_prk(key.expose()).expect("32 bytes are a pseudorandom key");
            let mut out = Key::zeroed();
            // 32 bytes are far below HKDF's limit.
            hkdf.expand_multi_info(&[LABEL, label], out.expose_mut()).expect("32 bytes");
            out
        };
        let (auth, seed, data) = (derive(b"authorization"), derive(b"seed"), derive(b"data"));
        // What the TPM demands of a keyed object: its public area holds a digest of its secret (part 1, "Sensitive area").
        let unique = hash(&[seed.expose(), data.expose()]);
        let build = || {
            let attributes = ObjectAttributesBuilder::new().with_user_with_auth(true).with_no_da(true).build()?;
            PublicBuilder::new()
                .with_public_algorithm(PublicAlgorithm::KeyedHash)
                .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
                .with_object_attributes(attributes)
                .with_keyed_hash_parameters(PublicKeyedHashParameters::new(KeyedHashScheme::Null))
                .with_keyed_hash_unique_identifier(Digest::try_from(&unique[..])?)
                .build()
        };
        let public = build().map_err(TpmError::of("the writer's object"))?;
        let policy = policy_secret(&name_of(&public)?);
        Ok(Writer { auth, seed, data, policy, public })
    }

    /// One command under the policy. A TPM that has to spare its memory is asked again.
    pub(super) fn write(
        &self,
        connection: &mut Connection,
        command: &'static str,
        run: impl Fn(&mut Context) -> Result<(), Error>,
    ) -> Result<(), TpmError> {
        let object = self.load(connection)?;
        let written = self.write_with(connection, object, command, run);
        let flushed = connection.context.flush_context(object.into()).map_err(TpmError::of("to forget a key"));
        written.and(flushed)
    }

    fn write_with(
        &self,
        connection: &mut Connection,
        object: KeyHandle,
        command: &'static str,
        run: impl Fn(&mut Context) -> Result<(), Error>,
    ) -> Result<(), TpmError> {
        let (session, policy) = connection.policy_session(false, false)?;
        connection.in_session((false, false), "the writer's key", |context| {
            let (nonce, cp_hash, reference) = (Nonce::default(), Digest::default(), Nonce::default());
            let entity = AuthHandle::from(ObjectHandle::from(object));
            context.policy_secret(policy, entity, nonce, cp_hash, reference, None)
        })?;
        let done = patiently(|| connection.context.execute_with_session(Some(session), &run));
        done.map_err(TpmError::of(command))?;
        connection.end(session)
    }

    fn load(&self, connection: &mut Connection) -> Result<KeyHandle, TpmError> {
        let refused = TpmError::of("the writer's object");
        let sensitive = Sensitive::Bits {
            auth_value: Auth::try_from(&self.auth.expose()[..]).map_err(&refused)?,
            seed_value: Digest::try_from(&self.seed.expose()[..]).map_err(&refused)?,
            sensitive: SensitiveData::try_from(&self.data.expose()[..]).map_err(&refused)?,
        };
        let auth = sensitive.auth_value().clone();
        let public = self.public.clone();
        let object = connection.in_session((true, false), "the writer's object", |context| {
            context.load_external(sensitive, public, Hierarchy::Null)
        })?;
        connection.context.tr_set_auth(object.into(), auth).map_err(&refused)?;
        Ok(object)
    }
}

/// Asks again while the TPM answers NV_RATE, for as long as a mount can wait.
pub(super) fn patiently<T>(mut ask: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let until = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Err(error) if is_rate(&error) && Instant::now() < until => std::thread::sleep(PAUSE),
            answer => return answer,
        }
    }
}

fn is_rate(error: &Error) -> bool {
    use tss_esapi::constants::response_code::Tss2ResponseCodeKind;
    matches!(error, Error::Tss2Error(code) if code.kind() == Some(Tss2ResponseCodeKind::NvRate))
}

const LABEL: &[u8] = b"sealing 1 tpm register writer: ";
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tpm_that_spares_its_memory_is_asked_again() {
        use tss_esapi::constants::response_code::FormatZeroResponseCode;
        use tss_esapi::constants::response_code::Tss2ResponseCode;
        // TPM_RC_NV_RATE.
        let rate = || Error::Tss2Error(Tss2ResponseCode::FormatZero(FormatZeroResponseCode(0x920)));
        let mut asked = 0;
        let answer = patiently(|| {
            asked += 1;
            if asked < 3 { Err(rate()) } else { Ok(asked) }
        });
        assert_eq!(answer, Ok(3));
    }
}
