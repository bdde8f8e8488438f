use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;

use super::*;

const ID: VolumeId = VolumeId([5; 16]);
const CHEAP: Argon2Cost = Argon2Cost { memory_kib: 64 << 10, passes: 1, lanes: 1 };

/// A folder with an image, a table that may be written, and no variable set.
struct Folder {
    dir: tempfile::TempDir,
    environment: Environment,
}

impl Folder {
    fn new() -> Folder {
        let dir = tempfile::tempdir().unwrap();
        let environment = Environment { key_file: None, config: dir.path().join("sefs.toml") };
        Folder { dir, environment }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn read(&self, args: &KeyArgs) -> Result<KeySource, String> {
        args.key_source_in(&self.path("a.sefs"), &self.environment).map_err(|failure| failure.to_string())
    }

    fn key_file(&self, content: impl AsRef<[u8]>) -> Result<KeySource, String> {
        let path = self.file("key", content);
        self.read(&KeyArgs { key_file: Some(path), ..KeyArgs::default() })
    }

    fn passphrase_file(&self, content: impl AsRef<[u8]>) -> Result<KeySource, String> {
        let path = self.file("pass", content);
        self.read(&KeyArgs { passphrase_file: Some(path), ..KeyArgs::default() })
    }
}

/// The secret is what it should be exactly if it opens a slot that was made for that.
fn same(source: &KeySource, secret: &SlotSecret) -> bool {
    let body = sealing::wrap(secret, &Key::zeroed(), &ID.0, &CHEAP, &OsRng).unwrap();
    source.open_slots([(secret.kind().number(), &body[..])], &ID, 64 << 20).is_ok()
}

fn raw(byte: u8) -> SlotSecret {
    SlotSecret::RawKey(Key::from_bytes(&[byte; 32]))
}

fn words(text: &str) -> SlotSecret {
    SlotSecret::Passphrase(Secret::new(text.as_bytes().to_vec()))
}

#[test]
fn key_files_are_32_bytes_or_64_hex_digits() {
    let folder = Folder::new();
    assert!(same(&folder.key_file([7; 32]).unwrap(), &raw(7)));
    for text in ["ab".repeat(32), "AB".repeat(32) + "\n", "ab".repeat(32) + "\r\n"] {
        assert!(same(&folder.key_file(&text).unwrap(), &raw(0xab)), "{text:?}");
    }
    let text = |count| "ab".repeat(count);
    for content in [vec![], vec![7; 31], vec![7; 33], vec![7; 64], text(31).into(), (text(32) + "\n\n").into()] {
        assert!(folder.key_file(&content).is_err(), "{content:?}");
    }
    assert!(folder.key_file(vec![b'a'; 70_000]).err().unwrap().contains("longer than"));
}

#[test]
fn a_passphrase_loses_one_newline() {
    let folder = Folder::new();
    assert!(same(&folder.passphrase_file("pass\n").unwrap(), &words("pass")));
    assert!(same(&folder.passphrase_file("pass").unwrap(), &words("pass")));
    assert!(same(&folder.passphrase_file(" pass \n\n").unwrap(), &words(" pass \n")));
    assert!(folder.passphrase_file("\n").is_err());
    assert!(folder.passphrase_file("").is_err());
}

#[test]
fn a_descriptor_can_be_a_key_file() {
    let folder = Folder::new();
    let file = fs::File::open(folder.file("key", [7; 32])).unwrap();
    let path = PathBuf::from(format!("/dev/fd/{}", file.as_raw_fd()));
    assert!(same(&folder.read(&KeyArgs { key_file: Some(path), ..KeyArgs::default() }).unwrap(), &raw(7)));
}

#[test]
fn a_key_that_others_can_read_gets_a_warning() {
    let folder = Folder::new();
    assert!(folder.key_file([7; 32]).unwrap().warnings.is_empty());
    let path = folder.file("open", [7; 32]);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let source = folder.read(&KeyArgs { key_file: Some(path), ..KeyArgs::default() }).unwrap();
    assert!(source.warnings[0].contains("can be read by others"), "{:?}", source.warnings);
}

#[test]
fn exactly_one_source() {
    let folder = Folder::new();
    let (key, pass) = (folder.file("key", [7; 32]), folder.file("pass", "x"));
    let both = KeyArgs { key_file: Some(key), passphrase_file: Some(pass), ..KeyArgs::default() };
    assert!(folder.read(&both).err().unwrap().contains("more than one key"));
    assert!(folder.read(&KeyArgs::default()).err().unwrap().contains("no key is given; give --key-file"));
    let gone = KeyArgs { key_file: Some(folder.path("gone")), ..KeyArgs::default() };
    assert!(folder.read(&gone).err().unwrap().contains("No such file"));
}

#[test]
fn options_win_over_the_variable_and_the_variable_over_the_table() {
    let mut folder = Folder::new();
    let (one, two, three) = (folder.file("1", [1; 32]), folder.file("2", [2; 32]), folder.file("3", [3; 32]));
    folder.file("sefs.toml", format!("[image.{:?}]\nkey-file = {three:?}\n", folder.path("a.sefs")));
    let none = KeyArgs::default();
    assert!(same(&folder.read(&none).unwrap(), &raw(3)));
    folder.environment.key_file = Some(two.into());
    assert!(same(&folder.read(&none).unwrap(), &raw(2)));
    assert!(same(&folder.read(&KeyArgs { key_file: Some(one), ..none }).unwrap(), &raw(1)));
}

/// Somebody else's table is no reason to refuse whoever brings a key, by the command line or by the variable.
#[test]
fn a_table_that_cannot_be_read_concerns_nobody_with_a_key() {
    let mut folder = Folder::new();
    let key = folder.file("1", [1; 32]);
    // What no user can read as a file.
    fs::create_dir(folder.path("sefs.toml")).unwrap();
    let none = KeyArgs::default();
    assert!(folder.read(&none).is_err());
    assert!(!none.names_key(&folder.path("a.sefs"), &folder.environment).unwrap());
    assert!(folder.read(&KeyArgs { key_file: Some(key.clone()), ..KeyArgs::default() }).is_ok());
    folder.environment.key_file = Some(key.into());
    assert!(same(&folder.read(&none).unwrap(), &raw(1)));
}

#[test]
fn the_table_pins_what_the_command_line_leaves_open() {
    let folder = Folder::new();
    let key = folder.file("1", [1; 32]);
    let id = "0f8e4a52-7c1d-4b39-9a60-5d3c2b1e8f74";
    let image = folder.path("a.sefs");
    folder.file("sefs.toml", format!("[image.{image:?}]\nvolume-id = \"{id}\"\nanchor = \"file:/anchor\"\n"));
    let args = KeyArgs { key_file: Some(key), ..KeyArgs::default() };
    let source = folder.read(&args).unwrap();
    assert_eq!(source.volume_id.unwrap().to_string(), id);
    assert_eq!(source.anchor, Some(AnchorSpec::File("/anchor".into())));
    let source = folder.read(&KeyArgs { volume_id: Some(ID), ..args.clone() }).unwrap();
    assert_eq!(source.volume_id, Some(ID));
    let source = folder.read(&KeyArgs { abandon_anchor: true, ..args }).unwrap();
    assert_eq!((source.anchor, source.abandon_anchor), (None, true));
}

#[test]
fn what_is_not_supported_says_so() {
    let folder = Folder::new();
    let args = KeyArgs { platform: Some("tpm:slot=3".into()), ..KeyArgs::default() };
    assert!(folder.read(&args).err().unwrap().starts_with("--platform tpm: "));
}

#[test]
fn mount_options_of_the_same_names() {
    let mut args = KeyArgs::default();
    assert_eq!(args.take_option("key-file", Some("/k")), Ok(true));
    assert_eq!(args.take_option("anchor", Some("file:/a")), Ok(true));
    assert_eq!(args.take_option("abandon-anchor", None), Ok(true));
    assert!(args.take_option("root-digest", Some("00")).unwrap_err().to_string().contains("64 hex digits"));
    assert_eq!(args.take_option("root-digest", Some(&"0a".repeat(32))), Ok(true));
    assert_eq!(args.root_digest.unwrap().0, [10; 32]);
    assert_eq!(args.take_option("allow_other", None), Ok(false));
    assert_eq!(args.take_option("allow-development", None), Ok(true));
    assert_eq!(args.take_option("io", Some("sync")), Ok(true));
    assert_eq!(args.take_option("crypto", Some("rustcrypto")), Ok(true));
    assert_eq!(args.crypto, Some(CryptoKind::Rustcrypto));
    assert!(args.take_option("crypto", Some("openssl")).unwrap_err().to_string().contains("aws-lc or rustcrypto"));
    assert!(args.take_option("io", Some("fast")).unwrap_err().to_string().contains("sync, uring or uring-direct"));
    assert_eq!(args.take_option("share-file", Some("/1")), Ok(true));
    assert_eq!(args.take_option("share-file", Some("/2")), Ok(true));
    assert_eq!((args.allow_development, args.share_file.len()), (true, 2));
    assert!(args.take_option("key-file", Some("/l")).unwrap_err().to_string().contains("given twice"));
    assert!(args.take_option("platform", None).unwrap_err().to_string().contains("needs a value"));
    assert!(args.take_option("volume-id", Some("x")).unwrap_err().to_string().contains("not a volume id"));
    assert_eq!((args.key_file, args.abandon_anchor), (Some("/k".into()), true));
}

#[test]
fn only_slots_of_the_callers_kind_are_tried() {
    let folder = Folder::new();
    let source = folder.key_file([7; 32]).unwrap();
    let volume_key = Key::from_bytes(&[9; 32]);
    let body = source.slot_body(&volume_key, &ID, &CHEAP).unwrap();
    let open = |slots: &[(u16, &[u8])]| source.open_slots(slots.iter().copied(), &ID, 64 << 20);
    assert_eq!(*open(&[(1, &[]), (1, &body)]).unwrap().expose(), [9; 32]);
    assert_eq!(open(&[(2, &body)]).err(), Some(SlotError::WrongKey));
    assert_eq!(open(&[]).err(), Some(SlotError::WrongKey));
}

#[test]
fn a_slot_over_the_budget_is_named_only_if_no_other_opens() {
    let folder = Folder::new();
    let source = folder.passphrase_file("pass").unwrap();
    let costly = Argon2Cost { memory_kib: 128 << 10, passes: 1, lanes: 1 };
    let large = source.slot_body(&Key::zeroed(), &ID, &costly).unwrap();
    let small = source.slot_body(&Key::zeroed(), &ID, &CHEAP).unwrap();
    let open = |slots: &[(u16, &[u8])]| source.open_slots(slots.iter().copied(), &ID, 64 << 20);
    assert!(open(&[(2, &large), (2, &small)]).is_ok());
    assert!(matches!(open(&[(2, &large), (2, &[])]).err(), Some(SlotError::OverLimit { .. })));
}

fn header(slots: Vec<KeySlot>) -> Header {
    Header {
        image: sefs::format::ImageType::Volume,
        incompatible: 0,
        volume_id: ID.0,
        node_size_bytes: 16_384,
        ring_start: sefs::types::BlockAddr(64),
        ring_blocks: 256,
        max_unmerged_bytes: 1 << 20,
        generation: 1,
        read_only_compatible: 0,
        compatible: 0,
        total_blocks: 16_384,
        key_generation: 1,
        label: String::new(),
        slots,
    }
}

#[test]
fn a_header_opens_with_the_key_that_made_its_slot() {
    let (folder, image) = (Folder::new(), Path::new("/a.sefs"));
    let mut source = folder.key_file([7; 32]).unwrap();
    let slot = source.slot_for(&VolumeKey::new([9; 32]), &ID, &CHEAP).unwrap();
    let header = header(vec![slot]);
    let open = |source: &KeySource| source.open_key(image, &header, 64 << 20).map_err(|failure| failure.to_string());
    assert_eq!(open(&source).map(|key| *key.expose()), Ok([9; 32]));

    source.volume_id = Some(VolumeId([6; 16]));
    assert!(open(&source).err().unwrap().contains("the volume's id is not the one demanded"));
    let other = folder.key_file([8; 32]).unwrap();
    let error = open(&other).err().unwrap();
    assert!(error.starts_with("/a.sefs: ") && error.contains("check that the key is this volume's"), "{error}");
}
