//! Registers in a TPM's NV memory that only the holder of a key can advance: a counter, or a counter with content.
//!
//! A counter is one index. A register with content is two: a counter at `index`, and an ordinary index at `index + 1`; the
//! protocol between them is [`super::swap`]'s.
//!
//! *Security*: both indices can be written under one policy only, PolicySecret with a key object that derives from the
//! caller's key: neither owner nor index authorization write. The object's Name is a digest of its secret, so whoever lacks the
//! caller's key can neither load it nor make another. Type, size, attributes and policy of an index are in its Name, which is
//! computed here and compared; an index that the owner removed and made anew is unwritten, has another Name, and cannot be
//! written by him. [`Register::identity`] covers the Names and the storage key's. Commands and answers go through sessions
//! salted to the storage key.

use tss_esapi::Context;
use tss_esapi::handles::NvIndexHandle;
use tss_esapi::interface_types::resource_handles::NvAuth;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::MaxNvBuffer;

use super::connection::{Connection, Maker, Tcti};
use super::digest::{Name, hash};
use super::error::TpmError;
use super::index::{Place, nv};
use super::swap::{self, CONTENT_LEN, Cells, RECORD_LEN, Record};
use super::writer::{Writer, patiently};
use crate::secret::Key;

/// What a register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterKind {
    /// A number.
    Counter,
    /// [`Register::CONTENT_LEN`] bytes.
    Content,
}

/// A register, and the key that advances it.
pub struct Register {
    tcti: Tcti,
    kind: RegisterKind,
    index: u32,
    storage: Name,
    writer: Writer,
}

impl Register {
    /// Bytes of content.
    pub const CONTENT_LEN: usize = CONTENT_LEN;

    /// Makes a register that `key` advances. What exists is not touched. Content starts as `content`, a counter somewhere.
    pub fn create(
        tcti: &Tcti,
        index: u32,
        kind: RegisterKind,
        key: &Key,
        content: &[u8; Register::CONTENT_LEN],
    ) -> Result<Register, TpmError> {
        let mut connection = Connection::open(tcti, None)?;
        let register = Register::of(tcti, index, kind, key, &connection)?;
        for place in register.places() {
            if connection.has_index(place.index)? {
                return Err(TpmError::IndexExists(place.index));
            }
        }
        let mut made = 0;
        let outcome = register.places().iter().try_for_each(|place| {
            place.define(&mut connection)?;
            made += 1;
            Ok(())
        });
        let started = outcome.and_then(|()| register.start(&mut connection, content));
        if started.is_err() {
            // Half a register would stand in the way of the next attempt.
            for place in register.places().iter().take(made) {
                let _ = place.undefine(&mut connection);
            }
        }
        started.map(|()| register)
    }

    /// Opens a register that `key` advances, and demands that it is the one which that key's holder made.
    pub fn open(tcti: &Tcti, index: u32, kind: RegisterKind, key: &Key) -> Result<Register, TpmError> {
        let mut connection = Connection::open(tcti, None)?;
        let register = Register::of(tcti, index, kind, key, &connection)?;
        register.handles(&mut connection)?;
        Ok(register)
    }

    fn of(
        tcti: &Tcti,
        index: u32,
        kind: RegisterKind,
        key: &Key,
        connection: &Connection,
    ) -> Result<Register, TpmError> {
        let writer = Writer::new(key)?;
        // The next one has to be free too.
        if !(index >= *INDICES.start() && index < *INDICES.end()) {
            return Err(TpmError::BadIndex(index));
        }
        Ok(Register { tcti: tcti.clone(), kind, index, storage: connection.storage_name, writer })
    }

    /// Which register: its TPM, its indices with type, attributes and policy, hence the key that advances it.
    pub fn identity(&self) -> [u8; 32] {
        let places = self.places();
        let names: Vec<[u8; 34]> = places.iter().map(|place| place.name(true).0).collect();
        hash(&[b"sealing 1 tpm register", &self.storage.0, names.as_flattened()])
    }

    /// Who made the TPM.
    pub fn maker(&self) -> Result<Maker, TpmError> {
        self.connect()?.maker()
    }

    /// The counter's value.
    pub fn count(&self) -> Result<u64, TpmError> {
        self.cells(|cells| cells.count())
    }

    /// Counts from `from` to one more. [`TpmError::Conflict`] if it is not at `from`, or somebody else counts too.
    pub fn increment(&self, from: u64) -> Result<(), TpmError> {
        self.cells(|cells| swap::own(cells, from))
    }

    /// The content.
    pub fn content(&self) -> Result<[u8; Register::CONTENT_LEN], TpmError> {
        self.cells(|cells| swap::settled(cells).map(|(_, record)| record.content))
    }

    /// Replaces the content, if it is `from`. After [`TpmError::Conflict`] it is not ours; after other errors it may be either.
    pub fn replace(
        &self,
        from: &[u8; Register::CONTENT_LEN],
        to: &[u8; Register::CONTENT_LEN],
    ) -> Result<(), TpmError> {
        self.cells(|cells| swap::replace(cells, from, to))
    }

    /// Takes the register away: for one whose volume was not made in the end.
    pub fn remove(&self) -> Result<(), TpmError> {
        let mut connection = self.connect()?;
        self.places().iter().try_for_each(|place| place.undefine(&mut connection))
    }

    /// Runs `work` on the register, after its names were compared.
    fn cells<T>(&self, work: impl FnOnce(&mut TpmCells) -> Result<T, TpmError>) -> Result<T, TpmError> {
        let mut connection = self.connect()?;
        let handles = self.handles(&mut connection)?;
        let reader = Reader::new(&mut connection)?;
        work(&mut TpmCells { register: self, connection, handles, reader })
    }

    fn connect(&self) -> Result<Connection, TpmError> {
        Connection::open(&self.tcti, Some(&self.storage))
    }

    fn places(&self) -> Vec<Place> {
        let policy = self.writer.policy;
        let counter = Place { index: self.index, nature: nv::COUNTER, len: 8, policy };
        match self.kind {
            RegisterKind::Counter => vec![counter],
            RegisterKind::Content => {
                let content = Place { index: self.index + 1, nature: nv::ORDINARY, len: RECORD_LEN, policy };
                vec![counter, content]
            }
        }
    }

    /// Handles of the indices, after their names were compared.
    fn handles(&self, connection: &mut Connection) -> Result<Vec<NvIndexHandle>, TpmError> {
        self.places().iter().map(|place| place.handle(connection)).collect()
    }

    /// Writes the first values: an index has its final name only then.
    fn start(&self, connection: &mut Connection, content: &[u8; Register::CONTENT_LEN]) -> Result<(), TpmError> {
        let places = self.places();
        let counter = places[0].fresh_handle(connection)?;
        self.count_up(connection, counter)?;
        if let Some(place) = places.get(1) {
            let counter = places[0].handle(connection)?;
            let number = Reader::new(connection)?.count(connection, counter)?;
            let record = place.fresh_handle(connection)?;
            self.write(connection, record, &Record { number, content: *content })?;
        }
        self.handles(connection).map(|_| ())
    }

    fn count_up(&self, connection: &mut Connection, counter: NvIndexHandle) -> Result<(), TpmError> {
        self.writer.write(connection, "to count", |context| context.nv_increment(NvAuth::NvIndex(counter), counter))
    }

    fn write(&self, connection: &mut Connection, at: NvIndexHandle, record: &Record) -> Result<(), TpmError> {
        let bytes = MaxNvBuffer::try_from(&record.encode()[..]).map_err(TpmError::of("to write"))?;
        self.writer.write(connection, "to write", |context| context.nv_write(NvAuth::NvIndex(at), at, bytes.clone(), 0))
    }
}

/// The policy of a register that `key` advances: for whoever compares it with what other software computes.
pub fn writer_policy(key: &Key) -> Result<[u8; 32], TpmError> {
    Writer::new(key).map(|writer| writer.policy)
}

/// The register in the TPM.
struct TpmCells<'a> {
    register: &'a Register,
    connection: Connection,
    handles: Vec<NvIndexHandle>,
    reader: Reader,
}

impl TpmCells<'_> {
    fn content_handle(&self) -> Result<NvIndexHandle, TpmError> {
        self.handles.get(1).copied().ok_or(TpmError::Torn)
    }
}

impl Cells for TpmCells<'_> {
    fn count(&mut self) -> Result<u64, TpmError> {
        self.reader.count(&mut self.connection, self.handles[0])
    }

    fn count_up(&mut self) -> Result<(), TpmError> {
        self.register.count_up(&mut self.connection, self.handles[0])
    }

    fn record(&mut self) -> Result<Record, TpmError> {
        let at = self.content_handle()?;
        self.reader.bytes(&mut self.connection, at).map(|bytes| Record::decode(&bytes))
    }

    fn write(&mut self, record: &Record) -> Result<(), TpmError> {
        let at = self.content_handle()?;
        self.register.write(&mut self.connection, at, record)
    }
}

/// Reads with answers that only the pinned TPM can give.
struct Reader(AuthSession);

impl Reader {
    fn new(connection: &mut Connection) -> Result<Reader, TpmError> {
        connection.session(false, false).map(Reader)
    }

    fn bytes<const N: usize>(&self, connection: &mut Connection, at: NvIndexHandle) -> Result<[u8; N], TpmError> {
        let len = u16::try_from(N).map_err(|_| TpmError::Torn)?;
        let read = |context: &mut Context| context.nv_read(NvAuth::NvIndex(at), at, len, 0);
        let data = patiently(|| connection.context.execute_with_session(Some(self.0), read));
        let data = data.map_err(TpmError::of("to read"))?;
        data.value().try_into().map_err(|_| TpmError::Torn)
    }

    fn count(&self, connection: &mut Connection, at: NvIndexHandle) -> Result<u64, TpmError> {
        self.bytes(connection, at).map(u64::from_be_bytes)
    }
}

/// NV indices below those that the TCG keeps for itself (Registry of Reserved TPM 2.0 Handles and Localities).
const INDICES: std::ops::RangeInclusive<u32> = 0x0100_0000..=0x01bf_ffff;
