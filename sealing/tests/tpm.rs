//! A root key in a TPM: which boot states open it, and what is refused. Against a real swtpm, with tpm2-tools as the judge.
#![cfg(feature = "tpm")]

mod swtpm;

use sealing::blob::{self, BlobUse, SealError};
use sealing::explain::explain;
use sealing::platform::tpm::{Tpm, signer};
use sealing::platform::{Assurance, Identity, KeyPolicy, Platform, PlatformError, PlatformKind};
use sealing::policy::{Development, PolicyError, SealPolicy};
use sealing::tpm::{
    ApproverKey, PcrSet, Root, TpmError, approver_name, policy, policy_authorize, policy_pcr, reference,
};
use sealing::{BlobHeader, Key, OsRng, Purpose};
use swtpm::Swtpm;

fn approver() -> ApproverKey {
    ApproverKey::new(&Key::from_bytes(&[7; 32]))
}

fn pcrs() -> PcrSet {
    PcrSet::new(&[0, 7]).unwrap()
}

fn create(tpm: &Swtpm) -> Root {
    Root::create(&tpm.tcti().parse().unwrap(), &approver().public(), pcrs(), &OsRng).unwrap()
}

/// Approves the boot state that the machine is in.
fn approve(root: &mut Root) {
    let values = root.status().unwrap().values;
    root.approvals.push(approver().approve(root.pcrs, &values).unwrap());
}

fn approved(tpm: &Swtpm) -> Root {
    let mut root = create(tpm);
    approve(&mut root);
    root
}

fn opened(root: &Root) -> Result<[u8; 32], TpmError> {
    root.open().map(|key| *key.expose())
}

fn reboot(tpm: &mut Swtpm, root: &mut Root) {
    tpm.reboot();
    root.tcti = tpm.tcti().parse().unwrap();
}

#[test]
fn a_root_opens_in_its_boot_state_and_after_a_restart() {
    let mut tpm = Swtpm::start();
    tpm.extend(7, 1);
    let mut root = create(&tpm);
    assert_eq!(opened(&root), Err(TpmError::NothingApproved));
    approve(&mut root);
    let key = opened(&root).unwrap();
    assert_ne!(key, [0; 32]);
    assert_eq!(opened(&root), Ok(key));
    let other = approved(&tpm);
    assert_ne!(opened(&other), Ok(key), "each root is its own");
    reboot(&mut tpm, &mut root);
    assert!(matches!(opened(&root), Err(TpmError::NotApproved(_))), "what was measured is gone");
    tpm.extend(7, 1);
    assert_eq!(opened(&root), Ok(key));
}

#[test]
fn another_boot_state_opens_once_it_was_approved() {
    let tpm = Swtpm::start();
    let mut root = approved(&tpm);
    let key = opened(&root).unwrap();
    tpm.extend(7, 9);
    let Err(TpmError::NotApproved(differences)) = opened(&root) else { panic!("it opened") };
    let [difference] = &differences[..] else { panic!("{differences:?}") };
    assert_eq!((difference.register, difference.approved), (7, [0; 32]));
    let text = TpmError::NotApproved(differences.clone()).to_string();
    assert!(text.contains("PCR 7 is ") && !text.contains("PCR 0 "), "{text}");
    approve(&mut root);
    assert_eq!(opened(&root), Ok(key), "the root stays the same");
    tpm.extend(0, 9);
    let Err(TpmError::NotApproved(differences)) = opened(&root) else { panic!("it opened") };
    assert_eq!(differences.iter().map(|it| it.register).collect::<Vec<_>>(), [0], "the nearest approval is the newest");
    tpm.extend(9, 9);
    assert_eq!(root.status().unwrap().values.len(), 2, "other registers do not count");
}

#[test]
fn a_stranger_approves_nothing() {
    let tpm = Swtpm::start();
    let mut root = create(&tpm);
    let values = root.status().unwrap().values;
    let stranger = ApproverKey::new(&Key::from_bytes(&[8; 32]));
    root.approvals.push(stranger.approve(pcrs(), &values).unwrap());
    assert_eq!(opened(&root), Err(TpmError::NotSigned));
    // A signature for another boot state is none for this one.
    let other = approver().approve(pcrs(), &[[1; 32]; 2]).unwrap();
    root.approvals[0].signature = other.signature;
    assert_eq!(opened(&root), Err(TpmError::NotSigned));
    // Whoever puts his own key into the file has another policy than the object.
    root.approver = stranger.public();
    root.approvals[0] = stranger.approve(pcrs(), &values).unwrap();
    assert_eq!(opened(&root), Err(TpmError::NotARoot("policy")));
    root.approvals[0].values.pop();
    root.approver = approver().public();
    assert_eq!(opened(&root), Err(TpmError::Approval));
    assert_eq!(approver().approve(pcrs(), &values[..1]), Err(TpmError::Approval));
}

#[test]
fn a_cleared_tpm_is_another_one() {
    let tpm = Swtpm::start();
    let root = approved(&tpm);
    tpm.tool("tpm2_clear", &["-c", "p"]);
    let error = opened(&root).unwrap_err();
    assert!(matches!(&error, TpmError::OtherTpm { pinned, .. } if *pinned == root.storage), "{error:?}");
    assert!(error.to_string().contains("cleared"), "{error}");
    assert!(matches!(root.status().unwrap().refusal, Some(TpmError::OtherTpm { .. })));
}

#[test]
fn an_unreachable_tpm_is_said_to_be_one() {
    let mut tpm = Swtpm::start();
    let root = approved(&tpm);
    tpm.power_off();
    assert!(matches!(opened(&root), Err(TpmError::Unreachable(_))));
}

#[test]
fn a_swapped_object_is_refused() {
    let tpm = Swtpm::start();
    let root = approved(&tpm);
    let other = approved(&tpm);
    let swapped = Root { public: other.public.clone(), private: other.private.clone(), ..root.clone() };
    assert_eq!(opened(&swapped), Err(TpmError::OtherRoot { pinned: root.name, here: other.name }));
    let halves = Root { private: other.private.clone(), ..root.clone() };
    assert!(matches!(opened(&halves), Err(TpmError::Refused { command: "to load the root", .. })));
    for at in 0..root.public.len() {
        let mut public = root.public.clone();
        public[at] ^= 1;
        assert!(opened(&Root { public, ..root.clone() }).is_err(), "byte {at} of the public area");
    }
    let mut private = root.private.clone();
    *private.last_mut().unwrap() ^= 1;
    assert!(opened(&Root { private, ..root.clone() }).is_err());
}

/// Objects with content that the host knows, under the same storage key: the file would name them consistently.
#[test]
fn an_object_that_is_no_root_is_refused_by_its_type_attributes_and_policy() {
    let tpm = Swtpm::start();
    let root = approved(&tpm);
    tpm.write("known", &[1; 32]);
    tpm.write("policy", &policy(&root.approver).unwrap());
    tpm.tool(
        "tpm2_createprimary",
        &[
            "-C",
            "o",
            "-G",
            "ecc256:null:aes128cfb",
            "-g",
            "sha256",
            "-c",
            "storage.ctx",
            "-a",
            "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt",
        ],
    );
    let make = |arguments: &[&str]| {
        let all = [&["-C", "storage.ctx", "-u", "pub", "-r", "priv"], arguments].concat();
        tpm.tool("tpm2_create", &all);
        let (public, private) = (tpm.file("pub")[2..].to_vec(), tpm.file("priv")[2..].to_vec());
        opened(&Root { name: sealing::tpm::Name::of(&public), public, private, ..root.clone() })
    };
    let known = make(&["-i", "known", "-L", "policy", "-a", "fixedtpm|fixedparent|adminwithpolicy|noda"]);
    assert_eq!(known, Ok([1; 32]), "what only its name tells from a root: the storage key is the same");
    let weak = make(&["-i", "known", "-L", "policy", "-a", "fixedtpm|fixedparent|userwithauth|adminwithpolicy|noda"]);
    assert_eq!(weak, Err(TpmError::NotARoot("set of attributes")));
    let open = make(&["-i", "known", "-a", "fixedtpm|fixedparent|adminwithpolicy|noda"]);
    assert_eq!(open, Err(TpmError::NotARoot("policy")));
    let key = make(&[
        "-G",
        "ecc256",
        "-L",
        "policy",
        "-a",
        "fixedtpm|fixedparent|adminwithpolicy|noda|sign|sensitivedataorigin",
    ]);
    assert_eq!(key, Err(TpmError::NotARoot("type")));
}

/// tpm2-tools computes the same digests and names, in trial sessions of the TPM.
#[test]
fn the_judge_computes_the_same_policies() {
    let tpm = Swtpm::start();
    tpm.extend(0, 3);
    tpm.extend(7, 4);
    let root = approved(&tpm);
    tpm.script("tpm2_startauthsession -S s; tpm2_policypcr -S s -l sha256:0,7 -L pcr; tpm2_flushcontext s");
    assert_eq!(policy_pcr(root.pcrs, &root.approvals[0].values).to_vec(), tpm.file("pcr"));

    let point = approver().public();
    // SubjectPublicKeyInfo of a P-256 key (RFC 5480) is this and the point.
    let head = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
        0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
    ];
    tpm.write("key.der", &[&head[..], &point].concat());
    tpm.script(
        "openssl ec -pubin -inform der -in key.der -out key.pem
         tpm2_loadexternal -C o -G ecc256:ecdsa-sha256:null -g sha256 -a 'userwithauth|sign' -u key.pem -c key.ctx -n key.name",
    );
    assert_eq!(approver_name(&point).unwrap().0.to_vec(), tpm.file("key.name"));
    tpm.write("reference", &reference());
    tpm.script(
        "tpm2_startauthsession -S s
         tpm2_policyauthorize -S s -L authorized -i pcr -q reference -n key.name
         tpm2_flushcontext s",
    );
    assert_eq!(policy(&point).unwrap().to_vec(), tpm.file("authorized"));
    assert_eq!(policy_authorize(&approver_name(&point).unwrap(), &reference()).to_vec(), tpm.file("authorized"));

    // The judge verifies an approval of ours, as a TPM does.
    tpm.write("message", &[tpm.file("pcr"), reference().to_vec()].concat());
    let (r, s) = root.approvals[0].signature.split_at(32);
    tpm.write("signature", &[&[0, 0x18, 0, 0x0b, 0, 32][..], r, &[0, 32], s].concat());
    tpm.tool("tpm2_verifysignature", &["-c", "key.ctx", "-g", "sha256", "-m", "message", "-s", "signature"]);
}

#[test]
fn a_swtpm_is_a_platform_for_development() {
    let tpm = Swtpm::start();
    let mut root = approved(&tpm);
    let code = Identity { mrenclave: [5; 32], isv_svn: 2, mrsigner: [9; 32], ..Identity::default() };
    let open = |root: &Root| Tpm::open(root, code.clone(), [0; 16]).unwrap();
    let platform = open(&root);
    assert_eq!((platform.kind(), platform.assurance()), (PlatformKind::Tpm, Assurance::Development));
    assert_eq!(Development::Refused.check(&platform), Err(PolicyError::Development));
    assert_eq!(platform.identity().mrsigner, signer(&root.approver).unwrap(), "not what the caller says");

    let blob_use = BlobUse { purpose: Purpose::new("test").unwrap(), volume_id: [0; 16] };
    let seal = SealPolicy::new(KeyPolicy::MRSIGNER).unwrap();
    let sealed = blob::seal(&platform, &seal, &blob_use, 0, b"data", Development::Allowed, &OsRng).unwrap();
    let unseal = |platform: &Tpm| {
        blob::unseal(platform, &sealed, &blob_use, None, Development::Allowed).map(|data| data.expose().to_vec())
    };
    assert_eq!(unseal(&platform), Ok(b"data".to_vec()));
    let older = Tpm::open(&root, Identity { isv_svn: 1, ..code.clone() }, [0; 16]).unwrap();
    assert_eq!(unseal(&older), Err(SealError::Platform(PlatformError::InvalidIsvSvn)));

    tpm.extend(7, 2);
    let locked = open(&root);
    assert_eq!(unseal(&locked), Err(SealError::Platform(PlatformError::NotApproved)));
    let refusals = locked.refusals();
    assert_eq!(refusals.iter().map(|it| it.field).collect::<Vec<_>>(), ["PCR 7"]);
    let header = BlobHeader::decode(&sealed).unwrap();
    let differences = explain(&header, locked.kind(), locked.identity(), &locked.versions(), None);
    assert_eq!(differences, [], "the header has nothing to do with it");
    approve(&mut root);
    assert_eq!(unseal(&open(&root)), Ok(b"data".to_vec()));
    root.approvals.clear();
    assert_eq!(open(&root).refusals()[0].field, "boot state");
}
