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
    let place = Folder::new();
    assert!(same(&place.key_file([7; 32]).unwrap(), &raw(7)));
    for text in ["ab".repeat(32), "AB".repeat(32) + "\n", "ab".repeat(32) + "\r\n"] {
        assert!(same(&place.key_file(&text).unwrap(), &raw(0xab)), "{text:?}");
    }
    let text = |count| "ab".repeat(count);
    for content in [vec![], vec![7; 31], vec![7; 33], vec![7; 64], text(31).into(), (text(32) + "\n\n").into()] {
        assert!(place.key_file(&content).is_err(), "{content:?}");
    }
    assert!(place.key_file(vec![b'a'; 70_000]).err().unwrap().contains("longer than"));
}

#[test]
fn a_passphrase_loses_one_newline() {
    let place = Folder::new();
    assert!(same(&place.passphrase_file("pass\n").unwrap(), &words("pass")));
    assert!(same(&place.passphrase_file("pass").unwrap(), &words("pass")));
    assert!(same(&place.passphrase_file(" pass \n\n").unwrap(), &words(" pass \n")));
    assert!(place.passphrase_file("\n").is_err());
    assert!(place.passphrase_file("").is_err());
}

#[test]
fn a_descriptor_can_be_a_key_file() {
    let place = Folder::new();
    let file = fs::File::open(place.file("key", [7; 32])).unwrap();
    let path = PathBuf::from(format!("/dev/fd/{}", file.as_raw_fd()));
    assert!(same(&place.read(&KeyArgs { key_file: Some(path), ..KeyArgs::default() }).unwrap(), &raw(7)));
}

#[test]
fn a_key_that_others_can_read_gets_a_warning() {
    let place = Folder::new();
    assert!(place.key_file([7; 32]).unwrap().warnings.is_empty());
    let path = place.file("open", [7; 32]);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let source = place.read(&KeyArgs { key_file: Some(path), ..KeyArgs::default() }).unwrap();
    assert!(source.warnings[0].contains("can be read by others"), "{:?}", source.warnings);
}

#[test]
fn exactly_one_source() {
    let place = Folder::new();
    let (key, pass) = (place.file("key", [7; 32]), place.file("pass", "x"));
    let both = KeyArgs { key_file: Some(key), passphrase_file: Some(pass), ..KeyArgs::default() };
    assert!(place.read(&both).err().unwrap().contains("more than one source"));
    assert!(place.read(&KeyArgs::default()).err().unwrap().contains("no key is given; give --key-file"));
    let gone = KeyArgs { key_file: Some(place.path("gone")), ..KeyArgs::default() };
    assert!(place.read(&gone).err().unwrap().contains("No such file"));
}

#[test]
fn options_win_over_the_variable_and_the_variable_over_the_table() {
    let mut place = Folder::new();
    let (one, two, three) = (place.file("1", [1; 32]), place.file("2", [2; 32]), place.file("3", [3; 32]));
    place.file("sefs.toml", format!("[image.{:?}]\nkey-file = {three:?}\n", place.path("a.sefs")));
    let none = KeyArgs::default();
    assert!(same(&place.read(&none).unwrap(), &raw(3)));
    place.environment.key_file = Some(two.into());
    assert!(same(&place.read(&none).unwrap(), &raw(2)));
    assert!(same(&place.read(&KeyArgs { key_file: Some(one), ..none }).unwrap(), &raw(1)));
}

#[test]
fn the_table_pins_what_the_command_line_leaves_open() {
    let place = Folder::new();
    let key = place.file("1", [1; 32]);
    let id = "0f8e4a52-7c1d-4b39-9a60-5d3c2b1e8f74";
    let image = place.path("a.sefs");
    place.file("sefs.toml", format!("[image.{image:?}]\nvolume-id = \"{id}\"\nanchor = \"file:/anchor\"\n"));
    let args = KeyArgs { key_file: Some(key), ..KeyArgs::default() };
    let source = place.read(&args).unwrap();
    assert_eq!(source.volume_id.unwrap().to_string(), id);
    assert_eq!(source.anchor, Some(AnchorSpec::File("/anchor".into())));
    let source = place.read(&KeyArgs { volume_id: Some(ID), ..args.clone() }).unwrap();
    assert_eq!(source.volume_id, Some(ID));
    let source = place.read(&KeyArgs { abandon_anchor: true, ..args }).unwrap();
    assert_eq!((source.anchor, source.abandon_anchor), (None, true));
}

#[test]
fn what_is_not_supported_says_so() {
    let place = Folder::new();
    let args = KeyArgs { platform: Some("tpm:slot=3".into()), ..KeyArgs::default() };
    assert_eq!(
        place.read(&args).err().unwrap(),
        "--platform tpm: no platform is supported by this release; give --key-file FILE or --passphrase-file FILE"
    );
    let args = KeyArgs { root_digest: Some("00".into()), ..KeyArgs::default() };
    assert!(place.read(&args).err().unwrap().contains("packed images are not supported"));
}

#[test]
fn mount_options_of_the_same_names() {
    let mut args = KeyArgs::default();
    assert_eq!(args.take_option("key-file", Some("/k")), Ok(true));
    assert_eq!(args.take_option("anchor", Some("file:/a")), Ok(true));
    assert_eq!(args.take_option("abandon-anchor", None), Ok(true));
    assert_eq!(args.take_option("allow_other", None), Ok(false));
    assert!(args.take_option("key-file", Some("/l")).unwrap_err().to_string().contains("given twice"));
    assert!(args.take_option("platform", None).unwrap_err().to_string().contains("needs a value"));
    assert!(args.take_option("volume-id", Some("x")).unwrap_err().to_string().contains("not a volume id"));
    assert_eq!((args.key_file, args.abandon_anchor), (Some("/k".into()), true));
}

#[test]
fn only_slots_of_the_callers_kind_are_tried() {
    let place = Folder::new();
    let source = place.key_file([7; 32]).unwrap();
    let volume_key = Key::from_bytes(&[9; 32]);
    let body = source.slot_body(&volume_key, &ID, &CHEAP).unwrap();
    let open = |slots: &[(u16, &[u8])]| source.open_slots(slots.iter().copied(), &ID, 64 << 20);
    assert_eq!(*open(&[(1, &[]), (1, &body)]).unwrap().expose(), [9; 32]);
    assert_eq!(open(&[(2, &body)]).err(), Some(SlotError::WrongKey));
    assert_eq!(open(&[]).err(), Some(SlotError::WrongKey));
}

#[test]
fn a_slot_over_the_budget_is_named_only_if_no_other_opens() {
    let place = Folder::new();
    let source = place.passphrase_file("pass").unwrap();
    let costly = Argon2Cost { memory_kib: 128 << 10, passes: 1, lanes: 1 };
    let large = source.slot_body(&Key::zeroed(), &ID, &costly).unwrap();
    let small = source.slot_body(&Key::zeroed(), &ID, &CHEAP).unwrap();
    let open = |slots: &[(u16, &[u8])]| source.open_slots(slots.iter().copied(), &ID, 64 << 20);
    assert!(open(&[(2, &large), (2, &small)]).is_ok());
    assert!(matches!(open(&[(2, &large), (2, &[])]).err(), Some(SlotError::OverLimit { .. })));
}
