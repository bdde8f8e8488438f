//! `software`: the same checks, over a root key that is made once and never replaced.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use sealing::OsRng;
use sealing::platform::software::{RootError, RootFile, Software};
use sealing::platform::{Assurance, Attributes, Identity, KeyPolicy, KeyRequest, Platform, PlatformError, SEAL_KEY};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("root")
    }

    fn made() -> Folder {
        let folder = Folder::new();
        RootFile::create(&folder.root(), &OsRng).unwrap();
        folder
    }
}

fn identity() -> Identity {
    Identity { mrenclave: [1; 32], mrsigner: [2; 32], isv_svn: 2, ..Identity::default() }
}

fn request() -> KeyRequest {
    KeyRequest {
        key_name: SEAL_KEY,
        policy: KeyPolicy::MRENCLAVE,
        isv_svn: 2,
        cpu_svn: [3; 16],
        attribute_mask: Attributes { flags: 3, xfrm: 0 },
        key_id: [4; 32],
        misc_mask: 0,
        config_svn: 0,
    }
}

fn key(folder: &Folder, identity: Identity, request: &KeyRequest) -> Result<Vec<u8>, PlatformError> {
    let software = Software::new(RootFile::open(&folder.root()).unwrap(), identity, [3; 16]);
    software.derive(request).map(|key| key.expose().to_vec())
}

#[test]
fn opening_never_creates_and_creating_never_replaces() {
    let folder = Folder::new();
    assert!(matches!(RootFile::open(&folder.root()), Err(RootError::Missing)));
    assert!(!folder.root().exists());
    RootFile::create(&folder.root(), &OsRng).unwrap();
    let bytes = fs::read(folder.root()).unwrap();
    assert!(matches!(RootFile::create(&folder.root(), &OsRng), Err(RootError::Exists)));
    assert_eq!(fs::read(folder.root()).unwrap(), bytes);
    assert_eq!(fs::metadata(folder.root()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_root_that_others_can_read_is_refused() {
    let folder = Folder::made();
    for mode in [0o640, 0o604, 0o620, 0o602] {
        fs::set_permissions(folder.root(), fs::Permissions::from_mode(mode)).unwrap();
        assert!(matches!(RootFile::open(&folder.root()), Err(RootError::NotPrivate)), "{mode:o}");
    }
}

#[test]
fn what_is_not_a_whole_root_is_refused() {
    let folder = Folder::made();
    let good = fs::read(folder.root()).unwrap();
    let check = |bytes: &[u8]| {
        fs::write(folder.root(), bytes).unwrap();
        assert!(matches!(RootFile::open(&folder.root()), Err(RootError::Malformed)), "{bytes:?}");
    };
    for len in 0..good.len() {
        check(&good[..len]);
    }
    check(&[&good[..], &[0]].concat());
    for at in (0..16).chain(80..96) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        check(&bad);
    }
    let mut zero = good.clone();
    zero[48..80].fill(0);
    check(&zero);
}

#[test]
fn a_key_depends_on_root_identity_and_request() {
    let folder = Folder::made();
    let base = key(&folder, identity(), &request()).unwrap();
    assert_eq!(base.len(), 32);
    assert_eq!(key(&folder, identity(), &request()).unwrap(), base);
    assert_ne!(key(&Folder::made(), identity(), &request()).unwrap(), base);
    assert_ne!(key(&folder, Identity { mrenclave: [9; 32], ..identity() }, &request()).unwrap(), base);
    assert_eq!(key(&folder, Identity { mrsigner: [9; 32], ..identity() }, &request()).unwrap(), base);
    let mut debug = identity();
    debug.attributes.flags |= 2;
    assert_ne!(key(&folder, debug, &request()).unwrap(), base);
    assert_ne!(key(&folder, identity(), &KeyRequest { key_id: [5; 32], ..request() }).unwrap(), base);
}

/// Computed with Python's hmac from the description in the module and in `docs/sealing-format.md`.
#[test]
fn known_answer() {
    let folder = Folder::new();
    let root: Vec<u8> = [&b"SEALroot\x01\0\0\0\0\0\0\0"[..], &[0x11; 32], &[0x22; 32], &[0; 16]].concat();
    fs::write(folder.root(), root).unwrap();
    fs::set_permissions(folder.root(), fs::Permissions::from_mode(0o600)).unwrap();
    let key = key(&folder, identity(), &request()).unwrap();
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "b458428527d1f4e18845d8236f94eee7688952a5025d80cee8a7bd2e3fe8e1fd");
}

#[test]
fn the_checks_are_those_of_egetkey() {
    let folder = Folder::made();
    let error = |request: KeyRequest| key(&folder, identity(), &request).unwrap_err();
    let mut newer = [3; 16];
    newer[15] = 4;
    assert_eq!(error(KeyRequest { cpu_svn: newer, ..request() }), PlatformError::InvalidCpuSvn);
    assert_eq!(error(KeyRequest { isv_svn: 3, ..request() }), PlatformError::InvalidIsvSvn);
    assert_eq!(error(KeyRequest { config_svn: 1, ..request() }), PlatformError::KssOff);
    assert_eq!(error(KeyRequest { policy: KeyPolicy(64), ..request() }), PlatformError::Reserved);
    assert_eq!(error(KeyRequest { key_name: 3, ..request() }), PlatformError::InvalidKeyName);
    let software = Software::new(RootFile::open(&folder.root()).unwrap(), identity(), [3; 16]);
    assert_eq!(software.assurance(), Assurance::Development);
}
