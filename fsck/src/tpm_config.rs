//! The file of a root key in a TPM: a TOML table `tpm`, beside the options of `--platform tpm` if somebody adds some.
//!
//! ```text
//! policy = "mrsigner"              # what --platform tpm: takes, for those who like it in the file
//! [tpm]
//! tcti = "device:/dev/tpmrm0"
//! storage, name                    # Names, pinned
//! public, private                  # the sealed root
//! approver = "04…"
//! pcrs = [0, 2, 4, 7]
//! [[tpm.approval]]
//! values = ["…", …]                # one for each PCR
//! signature = "…"
//! ```
//! *Security*: nothing in it is secret. Whoever can change it can put a root of his own into it, so a file that others than its
//! owner can read or write is refused, as with every root. A missing file is an error: nothing here makes a root but
//! [`create`], and that replaces none.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sealing::tpm::{BootApproval, Name, PcrSet, Root};
use toml::{Table, Value};

use crate::report::Failure;
use crate::showing::hex;
use crate::volume_id::decode_hex;

/// The name of the table.
pub const TABLE: &str = "tpm";

/// Reads a file: the whole of it, and the root in it.
pub fn read(path: &Path) -> Result<(Table, Root), Failure> {
    let metadata = std::fs::metadata(path)
        .map_err(|error| Failure::io(path, &error).way_out("a new root is made with sealing tpm init"))?;
    if !metadata.is_file() || metadata.mode() & 0o077 != 0 {
        return Err(Failure::new(path.display(), "it is not a file that only its owner can read and write")
            .way_out("chmod 600 it, and think of who has changed it"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| Failure::io(path, &error))?;
    let table: Table = toml::from_str(&text).map_err(|error| Failure::usage(path.display(), error.message()))?;
    let root = match table.get(TABLE) {
        Some(Value::Table(tpm)) => decode(tpm).map_err(|what| {
            Failure::new(path.display(), format!("its {what} makes no sense")).way_out("take it from a copy")
        })?,
        _ => {
            return Err(Failure::usage(path.display(), "it holds no root: there is no table [tpm]")
                .way_out("make one with sealing tpm init"));
        }
    };
    Ok((table, root))
}

/// Replaces the root in a file, in one step; what else is in it stays.
pub fn replace(path: &Path, mut table: Table, root: &Root) -> Result<(), Failure> {
    let io = |error: std::io::Error| Failure::io(path, &error).way_out("check the directory");
    table.insert(TABLE.into(), Value::Table(encode(root)));
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Its mode is 0600.
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(io)?;
    file.write_all(table.to_string().as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(io)?;
    file.persist(path).map_err(|error| io(error.error))?;
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)
}

/// The text of a new file.
pub fn text(root: &Root) -> String {
    let mut table = Table::new();
    table.insert(TABLE.into(), Value::Table(encode(root)));
    table.to_string()
}

fn encode(root: &Root) -> Table {
    let text = |bytes: &[u8]| Value::String(hex(bytes));
    let approval = |approval: &BootApproval| {
        let values = approval.values.iter().map(|value| text(value)).collect();
        Value::Table(Table::from_iter([
            ("values".to_string(), Value::Array(values)),
            ("signature".to_string(), text(&approval.signature)),
        ]))
    };
    let pcrs = root.pcrs.registers().map(|register| Value::Integer(register.into())).collect();
    Table::from_iter([
        ("tcti".to_string(), Value::String(root.tcti.text().to_string())),
        ("storage".to_string(), text(&root.storage.0)),
        ("name".to_string(), text(&root.name.0)),
        ("public".to_string(), text(&root.public)),
        ("private".to_string(), text(&root.private)),
        ("approver".to_string(), text(&root.approver)),
        ("pcrs".to_string(), Value::Array(pcrs)),
        ("approval".to_string(), Value::Array(root.approvals.iter().map(approval).collect())),
    ])
}

fn decode(table: &Table) -> Result<Root, &'static str> {
    let text = |name: &'static str| table.get(name).and_then(Value::as_str).ok_or(name);
    let bytes = |name| any_bytes(text(name)?).ok_or(name);
    let registers: Option<Vec<u8>> = table
        .get("pcrs")
        .and_then(Value::as_array)
        .and_then(|all| all.iter().map(|it| it.as_integer().and_then(|it| u8::try_from(it).ok())).collect());
    let approvals = match table.get("approval") {
        None => Vec::new(),
        Some(all) => {
            let all = all.as_array().ok_or("approval")?;
            all.iter().map(|it| decode_approval(it).ok_or("approval")).collect::<Result<_, _>>()?
        }
    };
    Ok(Root {
        tcti: text("tcti")?.parse().map_err(|_| "tcti")?,
        storage: Name(exactly(text("storage")?).ok_or("storage")?),
        name: Name(exactly(text("name")?).ok_or("name")?),
        public: bytes("public")?,
        private: bytes("private")?,
        approver: exactly(text("approver")?).ok_or("approver")?,
        pcrs: registers.and_then(|registers| PcrSet::new(&registers)).ok_or("pcrs")?,
        approvals,
    })
}

fn decode_approval(value: &Value) -> Option<BootApproval> {
    let values = value.get("values")?.as_array()?;
    let values: Option<Vec<[u8; 32]>> = values.iter().map(|value| exactly(value.as_str()?)).collect();
    Some(BootApproval { values: values?, signature: exactly(value.get("signature")?.as_str()?)? })
}

/// Hex digits for exactly so many bytes.
pub fn exactly<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut out = [0; N];
    decode_hex(text.as_bytes(), &mut out)?;
    Some(out)
}

/// What a TPM takes in one command is far below this.
const MAX_BYTES: usize = 4096;

fn any_bytes(text: &str) -> Option<Vec<u8>> {
    let mut out = vec![0; text.len() / 2];
    (text.len() <= 2 * MAX_BYTES).then(|| decode_hex(text.as_bytes(), &mut out))??;
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn root() -> Root {
        let approval = BootApproval { values: vec![[3; 32], [4; 32]], signature: [5; 64] };
        Root {
            tcti: "swtpm:localhost:5".parse().unwrap(),
            storage: Name([1; 34]),
            name: Name([2; 34]),
            public: vec![6; 50],
            private: vec![7; 90],
            approver: [8; 65],
            pcrs: PcrSet::new(&[0, 7]).unwrap(),
            approvals: vec![approval],
        }
    }

    #[test]
    fn a_file_gives_back_what_was_written_and_keeps_what_else_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.toml");
        std::fs::write(&path, format!("isvsvn = 3\n{}", text(&root()))).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("only its owner"));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let (table, found) = read(&path).unwrap();
        assert_eq!(found, root());
        let changed = Root { approvals: Vec::new(), ..root() };
        replace(&path, table, &changed).unwrap();
        let (table, found) = read(&path).unwrap();
        assert_eq!((found, table.get("isvsvn")), (changed, Some(&Value::Integer(3))));
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let good = encode(&root());
        for (name, value) in [
            ("tcti", Value::String("tpm".into())),
            ("storage", Value::String("00".into())),
            ("name", Value::Integer(1)),
            ("public", Value::String("0".into())),
            ("private", Value::String("00".repeat(MAX_BYTES + 1))),
            ("approver", Value::String("zz".into())),
            ("pcrs", Value::Array(vec![Value::Integer(24)])),
            ("pcrs", Value::Array(Vec::new())),
            ("approval", Value::Integer(1)),
            ("approval", Value::Array(vec![Value::Table(Table::new())])),
        ] {
            let mut table = good.clone();
            table.insert(name.into(), value);
            assert_eq!(decode(&table), Err(name));
        }
        assert!(read(Path::new("/nonexistent")).unwrap_err().to_string().contains("sealing tpm init"));
    }
}
