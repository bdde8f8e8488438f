//! Registers in a TPM's NV memory, against a real swtpm; tpm2-tools plays the owner who would like to change them.
#![cfg(feature = "tpm")]

mod swtpm;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use sealing::tpm::{ApproverKey, PcrSet, Register, RegisterKind, Root, Tcti, TpmError, writer_policy};
use sealing::{Key, OsRng};
use swtpm::Swtpm;

const INDEX: u32 = 0x0150_0016;

fn key() -> Key {
    Key::from_bytes(&[0x5a; 32])
}

fn tcti(tpm: &Swtpm) -> Tcti {
    tpm.tcti().parse().unwrap()
}

fn content(byte: u8) -> [u8; Register::CONTENT_LEN] {
    [byte; Register::CONTENT_LEN]
}

fn create(tpm: &Swtpm, kind: RegisterKind) -> Result<Register, TpmError> {
    Register::create(&tcti(tpm), INDEX, kind, &key(), &content(0))
}

fn open(tpm: &Swtpm, kind: RegisterKind) -> Result<Register, TpmError> {
    Register::open(&tcti(tpm), INDEX, kind, &key())
}

#[test]
fn content_is_replaced_by_whoever_knows_it() {
    let mut tpm = Swtpm::start();
    assert_eq!(open(&tpm, RegisterKind::Content).err(), Some(TpmError::NoIndex(INDEX)), "opening makes none");
    let register = create(&tpm, RegisterKind::Content).unwrap();
    assert_eq!(register.content(), Ok(content(0)));
    assert_eq!(register.replace(&content(0), &content(1)), Ok(()));
    assert_eq!(register.replace(&content(0), &content(2)), Err(TpmError::Conflict));
    assert_eq!(register.content(), Ok(content(1)));
    assert_eq!(create(&tpm, RegisterKind::Content).err(), Some(TpmError::IndexExists(INDEX)));
    let identity = register.identity();
    tpm.reboot();
    let register = open(&tpm, RegisterKind::Content).unwrap();
    assert_eq!(register.identity(), identity);
    assert_eq!(register.content(), Ok(content(1)));
    assert_eq!(register.replace(&content(1), &content(3)), Ok(()));
    // What a TPM confirmed is there when the power fails.
    tpm.power_off();
    tpm.power_on();
    assert_eq!(open(&tpm, RegisterKind::Content).unwrap().content(), Ok(content(3)));
}

#[test]
fn a_counter_counts_one_by_one() {
    let tpm = Swtpm::start();
    let register = create(&tpm, RegisterKind::Counter).unwrap();
    let start = register.count().unwrap();
    assert_eq!(register.increment(start), Ok(()));
    assert_eq!(register.increment(start), Err(TpmError::Conflict));
    assert_eq!(register.count(), Ok(start + 1), "a refused count counted nothing");
    assert_eq!(register.content(), Err(TpmError::Torn), "it holds nothing else");
    assert!(open(&tpm, RegisterKind::Content).is_err(), "it is not the other kind");
}

#[test]
fn a_death_between_counting_and_writing_is_survived_once() {
    let tpm = Swtpm::start();
    let register = create(&tpm, RegisterKind::Content).unwrap();
    let number = register.count().unwrap();
    register.increment(number).unwrap();
    assert_eq!(register.content(), Ok(content(0)));
    assert_eq!(register.replace(&content(0), &content(1)), Ok(()));
    assert_eq!(register.count(), Ok(number + 3), "the dead one's number was left out");
    register.increment(number + 3).unwrap();
    register.increment(number + 4).unwrap();
    assert_eq!(register.content(), Err(TpmError::Torn));
    assert_eq!(register.replace(&content(1), &content(2)), Err(TpmError::Torn));
}

#[test]
fn neither_owner_nor_stranger_writes() {
    let tpm = Swtpm::start();
    let register = create(&tpm, RegisterKind::Content).unwrap();
    tpm.write("zeros", &[0; 48]);
    let (counter, cell) = (format!("{INDEX:#x}"), format!("{:#x}", INDEX + 1));
    for hierarchy in ["o", &cell] {
        let (wrote, text) = tpm.try_tool("tpm2_nvwrite", &[&cell, "-C", hierarchy, "-i", "zeros"]);
        assert!(!wrote, "{text}");
    }
    for hierarchy in ["o", &counter] {
        let (counted, text) = tpm.try_tool("tpm2_nvincrement", &[&counter, "-C", hierarchy]);
        assert!(!counted, "{text}");
    }
    let stranger = Register::open(&tcti(&tpm), INDEX, RegisterKind::Content, &Key::from_bytes(&[1; 32]));
    let error = stranger.err().unwrap();
    assert!(matches!(error, TpmError::OtherIndex { index: INDEX, .. }), "{error:?}");
    assert!(error.to_string().contains("another key writes it"), "{error}");
    assert_eq!(register.content(), Ok(content(0)));
}

/// The owner removes the indices and makes others with every property that he can give them.
#[test]
fn an_index_that_was_made_anew_is_refused() {
    let tpm = Swtpm::start();
    let register = create(&tpm, RegisterKind::Content).unwrap();
    let (counter, cell) = (format!("{INDEX:#x}"), format!("{:#x}", INDEX + 1));
    tpm.write("policy", &writer_policy(&key()).unwrap());
    tpm.tool("tpm2_nvundefine", &[&cell, "-C", "o"]);
    assert_eq!(register.content(), Err(TpmError::NoIndex(INDEX + 1)));
    assert_eq!(open(&tpm, RegisterKind::Content).err(), Some(TpmError::NoIndex(INDEX + 1)));

    let define = |index: &str, len: &str, attributes: &str| {
        tpm.tool("tpm2_nvdefine", &[index, "-C", "o", "-s", len, "-L", "policy", "-a", attributes]);
    };
    define(&cell, "48", "policywrite|authread|no_da");
    let error = register.content().unwrap_err();
    assert!(matches!(error, TpmError::OtherIndex { .. }) && error.to_string().contains("made anew"), "{error}");

    // One that he can write: its attributes differ.
    tpm.tool("tpm2_nvundefine", &[&cell, "-C", "o"]);
    define(&cell, "48", "policywrite|ownerwrite|authread|no_da");
    tpm.write("zeros", &[0; 48]);
    tpm.tool("tpm2_nvwrite", &[&cell, "-C", "o", "-i", "zeros"]);
    let error = register.content().unwrap_err();
    assert!(error.to_string().contains("set of attributes"), "{error}");

    tpm.tool("tpm2_nvundefine", &[&counter, "-C", "o"]);
    define(&counter, "8", "nt=counter|policywrite|authread|no_da");
    assert!(register.content().unwrap_err().to_string().contains("made anew"));
}

#[test]
fn a_cleared_tpm_has_no_register() {
    let tpm = Swtpm::start();
    let register = create(&tpm, RegisterKind::Content).unwrap();
    tpm.tool("tpm2_clear", &["-c", "p"]);
    assert!(matches!(register.content(), Err(TpmError::OtherTpm { .. })));
    assert_eq!(open(&tpm, RegisterKind::Content).err(), Some(TpmError::NoIndex(INDEX)));
    let identity = register.identity();
    assert_ne!(create(&tpm, RegisterKind::Content).unwrap().identity(), identity, "another storage key");
}

#[test]
fn half_a_register_is_taken_away_again() {
    let tpm = Swtpm::start();
    tpm.tool("tpm2_nvdefine", &[&format!("{:#x}", INDEX + 1), "-C", "o", "-s", "8", "-a", "ownerwrite|ownerread"]);
    assert_eq!(create(&tpm, RegisterKind::Content).err(), Some(TpmError::IndexExists(INDEX + 1)));
    assert!(!tpm.tool("tpm2_getcap", &["handles-nv-index"]).contains(&format!("{INDEX:X}")));
    let register = create(&tpm, RegisterKind::Counter).unwrap();
    register.remove().unwrap();
    assert_eq!(open(&tpm, RegisterKind::Counter).err(), Some(TpmError::NoIndex(INDEX)));
    for index in [0, 0x00ff_ffff, 0x01bf_ffff, 0x01c0_0000, 0x8100_0001, u32::MAX] {
        let made = Register::create(&tcti(&tpm), index, RegisterKind::Content, &key(), &content(0));
        assert_eq!(made.err(), Some(TpmError::BadIndex(index)), "{index:#x}");
    }
}

#[test]
fn the_judge_computes_the_same_policy_and_name() {
    let tpm = Swtpm::start();
    create(&tpm, RegisterKind::Content).unwrap();
    let public = tpm.tool("tpm2_nvreadpublic", &[&format!("{INDEX:#x}")]);
    let policy: String = writer_policy(&key()).unwrap().iter().map(|byte| format!("{byte:02X}")).collect();
    assert!(public.contains(&policy), "{public}");
    assert!(public.contains("policywrite|nt=0x1|authread|no_da|written"), "{public}");
    // The policy of a keyed object whose name the judge knows: PolicySecret is computed by the TPM from the object itself.
    tpm.write("data", b"known");
    tpm.script(
        "tpm2_createprimary -C o -c p.ctx
         tpm2_flushcontext -t
         tpm2_create -C p.ctx -i data -u pub -r priv -a 'userwithauth|noda|fixedtpm|fixedparent'
         tpm2_flushcontext -t
         tpm2_load -C p.ctx -u pub -r priv -c obj.ctx -n obj.name
         tpm2_flushcontext -t
         tpm2_startauthsession -S s
         tpm2_policysecret -S s -c obj.ctx -L secret
         tpm2_flushcontext s",
    );
    let name = sealing::tpm::Name(tpm.file("obj.name").try_into().unwrap());
    assert_eq!(sealing::tpm::policy_secret(&name).to_vec(), tpm.file("secret"));
}

/// Somebody on the wire, who writes everything down and changes one answer.
struct Wire {
    port: u16,
    seen: Arc<Mutex<Vec<u8>>>,
    /// The commands' codes, and the handle that follows each.
    commands: Arc<Mutex<Vec<(u32, u32)>>>,
    /// Flips a bit of the answer to the command with this code.
    flip: Arc<Mutex<Option<u32>>>,
}

impl Wire {
    fn tap(tpm: &Swtpm) -> Wire {
        let (commands, control) = (0..50)
            .find_map(|_| {
                let first = TcpListener::bind(("127.0.0.1", 0)).ok()?;
                let next = first.local_addr().ok()?.port().checked_add(1)?;
                Some((first, TcpListener::bind(("127.0.0.1", next)).ok()?))
            })
            .unwrap();
        let port = commands.local_addr().unwrap().port();
        let wire = Wire { port, seen: Arc::default(), commands: Arc::default(), flip: Arc::default() };
        for (listener, to) in [(commands, tpm.port()), (control, tpm.port() + 1)] {
            let parts = (wire.seen.clone(), wire.commands.clone(), wire.flip.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let (seen, commands, flip) = parts.clone();
                    std::thread::spawn(move || Wire::pass(stream.unwrap(), to, &seen, &commands, &flip));
                }
            });
        }
        wire
    }

    fn pass(
        mut near: TcpStream,
        to: u16,
        seen: &Mutex<Vec<u8>>,
        commands: &Mutex<Vec<(u32, u32)>>,
        flip: &Mutex<Option<u32>>,
    ) {
        let Ok(mut far) = TcpStream::connect(("127.0.0.1", to)) else { return };
        let mut buffer = [0; 8192];
        loop {
            let asked = match near.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(count) => count,
            };
            seen.lock().unwrap().extend_from_slice(&buffer[..asked]);
            let word =
                |at: usize| buffer[..asked].get(at..at + 4).map(|word| u32::from_be_bytes(word.try_into().unwrap()));
            let code = word(6);
            commands.lock().unwrap().extend(code.zip(word(10)));
            far.write_all(&buffer[..asked]).unwrap();
            let answered = match far.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(count) => count,
            };
            seen.lock().unwrap().extend_from_slice(&buffer[..answered]);
            if code.is_some() && *flip.lock().unwrap() == code {
                // In the first parameter: after tag, size, code, and the parameters' size.
                buffer[18] ^= 1;
            }
            near.write_all(&buffer[..answered]).unwrap();
        }
    }

    fn saw(&self, bytes: &[u8]) -> bool {
        self.seen.lock().unwrap().windows(bytes.len()).any(|window| window == bytes)
    }

    fn count(&self, command: u32, wanted: impl Fn(u32) -> bool) -> usize {
        self.commands.lock().unwrap().iter().filter(|(code, handle)| *code == command && wanted(*handle)).count()
    }

    fn tcti(&self) -> Tcti {
        format!("swtpm:127.0.0.1:{}", self.port).parse().unwrap()
    }
}

const UNSEAL: u32 = 0x015e;
const NV_READ: u32 = 0x014e;
const CREATE_PRIMARY: u32 = 0x0131;
const START_AUTH_SESSION: u32 = 0x0176;
/// TPM_RH_NULL, where a session that is not salted has its key.
const NO_KEY: u32 = 0x4000_0007;

#[test]
fn whoever_is_on_the_wire_neither_reads_a_root_nor_changes_an_answer() {
    let tpm = Swtpm::start();
    let wire = Wire::tap(&tpm);
    let approver = ApproverKey::new(&key());
    let mut root = Root::create(&wire.tcti(), &approver.public(), PcrSet::new(&[7]).unwrap(), &OsRng).unwrap();
    root.approvals.push(approver.approve(root.pcrs, &root.status().unwrap().values).unwrap());
    let opened = root.open().unwrap();
    assert!(wire.saw(&root.public[..]), "the wire sees what goes over it");
    assert!(!wire.saw(&opened.expose()[..16]), "the root was sent in plain");
    // Encryption under a key that everybody can compute would look the same. Only the one session in which the storage key is
    // made, for which there is none yet, has no salt.
    let unsalted = wire.count(START_AUTH_SESSION, |key| key == NO_KEY);
    assert_eq!(unsalted, wire.count(CREATE_PRIMARY, |_| true), "sessions without a salt");
    // To seal, to load, to unseal.
    assert_eq!(wire.count(START_AUTH_SESSION, |key| key != NO_KEY), 3);
    *wire.flip.lock().unwrap() = Some(UNSEAL);
    assert!(matches!(root.open(), Err(TpmError::Refused { command: "to unseal the root", .. })));
    // What a connection that lost trust could not take along; a resource manager does that.
    tpm.try_tool("tpm2_getrandom", &["1"]);

    let register = Register::create(&wire.tcti(), INDEX, RegisterKind::Content, &key(), &content(3)).unwrap();
    assert_eq!(register.content(), Ok(content(3)));
    *wire.flip.lock().unwrap() = Some(NV_READ);
    assert!(matches!(register.content(), Err(TpmError::Refused { command: "to read", .. })));
}
