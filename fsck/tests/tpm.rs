//! The tools with a TPM, against a real swtpm: a volume whose key a boot state opens, and one whose anchor is in NV memory.
#![cfg(feature = "tpm")]

#[path = "../../sealing/tests/swtpm/mod.rs"]
mod swtpm;

use std::path::PathBuf;
use std::process::Command;

use swtpm::Swtpm;
use tempfile::TempDir;

struct Bench {
    tpm: Swtpm,
    folder: TempDir,
}

impl Bench {
    fn new() -> Bench {
        let bench = Bench { tpm: Swtpm::start(), folder: tempfile::tempdir().unwrap() };
        std::fs::write(bench.path("key"), "11".repeat(32)).unwrap();
        std::fs::write(bench.path("approver"), "22".repeat(32)).unwrap();
        std::fs::write(bench.path("data"), "some data").unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a tool in the folder: its exit code, and what it said on both outputs.
    fn run(&self, program: &str, line: &str) -> (i32, String) {
        let output = Command::new(program)
            .args(line.split_whitespace())
            .current_dir(self.folder.path())
            .env("TSS2_LOG", "all+NONE")
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8_lossy(&text).into_owned())
    }

    fn sealing(&self, line: &str) -> (i32, String) {
        self.run(env!("CARGO_BIN_EXE_sealing"), line)
    }

    fn mkfs(&self, line: &str) -> (i32, String) {
        self.run(env!("CARGO_BIN_EXE_mkfs-sefs"), line)
    }

    fn debug(&self, line: &str) -> (i32, String) {
        self.run(env!("CARGO_BIN_EXE_debug-sefs"), line)
    }

    fn fsck(&self, line: &str) -> (i32, String) {
        self.run(env!("CARGO_BIN_EXE_fsck-sefs"), line)
    }

    /// A root, approved for the boot state that the machine is in.
    fn init(&self) {
        let tcti = self.tpm.tcti();
        ok(self.sealing(&format!("tpm init --config root.toml --signing-key approver --pcrs 0,7 --tcti {tcti}")));
    }

    fn anchor(&self) -> String {
        format!("tpm:0x1500016@swtpm:127.0.0.1:{}", self.tpm.port())
    }
}

fn ok((code, text): (i32, String)) -> String {
    assert_eq!(code, 0, "{text}");
    text
}

/// It was refused, in words that contain all of `parts`.
fn refused((code, text): (i32, String), parts: &[&str]) {
    assert_ne!(code, 0, "{text}");
    for part in parts {
        assert!(text.contains(part), "'{part}' is missing: {text}");
    }
}

const OWNER: &str = "--platform tpm:config=root.toml --allow-development";

#[test]
fn a_volume_opens_in_approved_boot_states_only() {
    let bench = Bench::new();
    bench.init();
    refused(bench.sealing("tpm init --config root.toml --signing-key approver"), &["never replaced"]);
    let made = ok(bench.mkfs(&format!("image --size 16M --key-file key {OWNER}")));
    assert!(made.contains("for development"), "a swtpm says so: {made}");
    refused(
        bench.mkfs("other --size 16M --platform tpm:config=root.toml"),
        &["for development", "--allow-development"],
    );
    ok(bench.debug(&format!("image {OWNER} ls /")));
    let status = ok(bench.sealing("tpm status --config root.toml"));
    assert!(status.contains("the root opens") && status.contains("development") && status.contains("SW"), "{status}");

    // An update that nobody approved.
    bench.tpm.extend(7, 0xab);
    refused(bench.debug(&format!("image {OWNER} ls /")), &["not approved", "PCR 7 is ", "sealing tpm approve"]);
    refused(bench.sealing("tpm status --config root.toml"), &["does not open", "PCR 7"]);
    refused(bench.sealing(&format!("explain image {OWNER}")), &["PCR 7: sealed 0000", "boot state"]);
    let (_, text) = bench.sealing(&format!("--json explain image {OWNER}"));
    assert!(text.contains("\"field\":\"PCR 7\""), "{text}");
    ok(bench.debug("image --key-file key ls /"));

    // Nobody but the approver approves.
    refused(
        bench.sealing("tpm approve --config root.toml --signing-key key"),
        &["not the key of this root's approver"],
    );
    ok(bench.sealing("tpm approve --config root.toml --signing-key approver"));
    ok(bench.debug(&format!("image {OWNER} ls /")));

    // The next update, approved before it came, on a machine without the TPM.
    let next = bench.tpm.tool("tpm2_pcrread", &["sha256:0,7"]);
    let values: Vec<&str> = next.split("0x").skip(1).map(|value| value[..64].trim()).collect();
    let [zero, seven] = values[..] else { panic!("{next}") };
    let extended = sha256(&[&unhex(seven)[..], &[0xcd; 32]].concat());
    let line = format!("tpm approve --config root.toml --signing-key approver --pcr 0={zero} --pcr 7={extended}");
    refused(bench.sealing(&format!("{line} --pcr 3={extended}")), &["no value of one of this root's PCRs"]);
    ok(bench.sealing(&line));
    bench.tpm.extend(7, 0xcd);
    ok(bench.debug(&format!("image {OWNER} ls /")));
}

/// tpm2-tools has no digest of its own; openssl has.
fn sha256(bytes: &[u8]) -> String {
    use std::io::Write;
    let mut child = Command::new("sha256sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()[..64].to_string()
}

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// The story of a volume with a slot in the TPM and recovery shares: a boot state that nobody approved is refused and named,
/// two of three shares open meanwhile, the approval opens it again, and when the TPM is cleared the shares give it a new root.
#[test]
fn a_volume_outlives_updates_and_its_tpm() {
    let bench = Bench::new();
    bench.init();
    std::fs::create_dir(bench.path("from")).unwrap();
    std::fs::write(bench.path("from/file"), "first").unwrap();
    std::fs::create_dir(bench.path("shares")).unwrap();
    ok(bench.mkfs(&format!("image --size 16M --from from {OWNER}")));
    let alone = ok(bench.sealing("doctor image --simulate new-mrenclave"));
    assert!(alone.contains("nothing changes"), "it is bound to the approver: {alone}");
    refused(bench.sealing("doctor image --simulate tpm-clear"), &["WOULD NO LONGER OPEN"]);
    ok(bench.sealing(&format!("slots add image {OWNER} --shares 2/3 --share-dir shares")));
    for change in ["tpm-clear", "pcr-change"] {
        let told = ok(bench.sealing(&format!("doctor image --simulate {change}")));
        assert!(told.contains("1 platform slots are lost, 1 others still open it"), "{change}: {told}");
    }
    assert!(ok(bench.sealing("doctor image --simulate cpusvn+1")).contains("nothing changes"));
    let with_tpm = || bench.debug(&format!("image {OWNER} cat /file"));
    let with_shares = |first: u8, second: u8| {
        bench.debug(&format!("image --share-file shares/share-{first} --share-file shares/share-{second} cat /file"))
    };
    assert_eq!(ok(with_shares(1, 3)), "first");
    ok(with_tpm());

    // A change of a PCR that nobody approved.
    bench.tpm.extend(7, 0xab);
    refused(with_tpm(), &["not approved", "PCR 7 is ", "sealing tpm approve"]);
    refused(
        bench.sealing(&format!("explain image {OWNER}")),
        &["slot 0: does not open", "PCR 7: sealed 0000", ", here "],
    );
    assert_eq!(ok(with_shares(1, 2)), "first");
    refused(bench.debug("image --share-file shares/share-1 ls /"), &["2 shares are needed, 1 given"]);
    // One that was.
    ok(bench.sealing("tpm approve --config root.toml --signing-key approver"));
    ok(with_tpm());

    // The TPM is cleared: the message says so and what to do, the other slot opens, and the shares bring a new root in.
    bench.tpm.tool("tpm2_clear", &["-c", "p"]);
    refused(with_tpm(), &["another TPM, or it was cleared", "use another key slot"]);
    assert_eq!(ok(with_shares(2, 3)), "first");
    let tcti = bench.tpm.tcti();
    ok(bench.sealing(&format!("tpm init --config next.toml --signing-key approver --pcrs 0,7 --tcti {tcti}")));
    let next = "--new-platform tpm:config=next.toml --allow-development --slot 0";
    let shares = "--share-file shares/share-1 --share-file shares/share-2";
    let told = ok(bench.sealing(&format!("recover image {shares} {next}")));
    assert!(told.contains("sealing slots test image --platform tpm:config=next.toml"), "{told}");
    let opened = ok(bench.debug("image --platform tpm:config=next.toml --allow-development cat /file"));
    assert!(opened.starts_with("first"), "{opened}");
    refused(with_tpm(), &["cleared"]);
}

#[test]
fn a_cleared_tpm_costs_its_slot_and_no_more() {
    let bench = Bench::new();
    bench.init();
    ok(bench.mkfs(&format!("image --size 16M --key-file key {OWNER}")));
    ok(bench.sealing(&format!("seal data --out blob --purpose test {OWNER}")));
    let warned = ok(bench.sealing("doctor image --simulate tpm-clear"));
    assert!(warned.contains("1 platform slots are lost, 1 others"), "{warned}");
    for change in ["tpm-clear", "pcr-change"] {
        refused(bench.sealing(&format!("doctor blob --simulate {change}")), &["WOULD NO LONGER OPEN"]);
    }
    ok(bench.sealing("doctor blob --simulate new-mrenclave"));
    bench.tpm.tool("tpm2_clear", &["-c", "p"]);
    refused(bench.debug(&format!("image {OWNER} ls /")), &["another TPM, or it was cleared"]);
    refused(bench.sealing("tpm status --config root.toml"), &["cleared"]);
    refused(bench.sealing(&format!("unseal blob --out x --purpose test {OWNER}")), &["cleared"]);
    refused(bench.sealing("tpm approve --config root.toml --signing-key approver"), &["cleared"]);
    ok(bench.debug("image --key-file key ls /"));
}

#[test]
fn what_is_wrong_is_named() {
    let bench = Bench::new();
    let owner = |spec: &str| bench.debug(&format!("image --platform {spec} --allow-development ls /"));
    bench.init();
    ok(bench.mkfs(&format!("image --size 16M --key-file key {OWNER}")));
    refused(owner("tpm:config=nowhere.toml"), &["No such file"]);
    refused(owner("tpm"), &["no configuration is named"]);
    refused(owner(&format!("tpm:config=root.toml,mrsigner={}", "11".repeat(32))), &["who approves boot states"]);
    refused(owner("tpm:config=root.toml,tcti=nosuch"), &["names no TPM"]);
    refused(owner("tpm:config=root.toml,root=x"), &["no such option"]);
    ok(owner(&format!("tpm:config=root.toml,tcti={}", bench.tpm.tcti())));
    // Other code on the same machine.
    let code = format!("tpm:config=root.toml,policy=mrenclave,mrenclave={}", "33".repeat(32));
    ok(bench.sealing(&format!("seal data --out blob --purpose test --allow-development --platform {code}")));
    let other = code.replace("33", "44");
    let unseal = |spec: &str| {
        bench.sealing(&format!("unseal blob --out - --purpose test --allow-development --platform {spec}"))
    };
    assert!(ok(unseal(&code)).contains("some data"));
    refused(unseal(&other), &["does not open"]);
    refused(
        bench.sealing(&format!("explain blob --allow-development --platform {other}")),
        &["mrenclave: sealed 3333"],
    );
    std::fs::set_permissions(bench.path("root.toml"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    refused(owner("tpm:config=root.toml"), &["only its owner", "chmod 600"]);
}

#[test]
fn an_anchor_in_a_tpm_refuses_yesterdays_volume() {
    let bench = Bench::new();
    let anchor = bench.anchor();
    let from = bench.path("from");
    std::fs::create_dir(&from).unwrap();
    std::fs::write(from.join("file"), "first").unwrap();
    refused(bench.debug(&format!("image --key-file key --anchor {anchor} ls /")), &["image"]);
    let made = ok(bench.mkfs(&format!("image --size 16M --from from --key-file key --anchor {anchor}")));
    assert!(made.contains("the anchor's TPM is a program"), "{made}");
    refused(bench.mkfs(&format!("other --size 16M --key-file key --anchor {anchor}")), &["already", "another index"]);
    assert!(!bench.path("other").exists());
    let open = |image: &str| bench.debug(&format!("{image} --key-file key --anchor {anchor} ls /"));
    assert!(ok(open("image")).contains("file"));
    ok(bench.fsck(&format!("image -n --key-file key --anchor {anchor}")));
    refused(bench.debug("image --key-file key ls /"), &["anchor"]);

    std::fs::copy(bench.path("image"), bench.path("yesterday")).unwrap();
    // A change of key slots is a checkpoint, and moves the anchor.
    std::fs::write(bench.path("second"), "55".repeat(32)).unwrap();
    ok(bench.sealing(&format!("slots add image --key-file key --anchor {anchor} --new-key-file second")));
    ok(open("image"));
    refused(open("yesterday"), &["yesterday", "roll"]);
    ok(bench.debug("yesterday --key-file key --abandon-anchor ls /"));

    // Another volume under the same anchor, and the anchor of another key.
    ok(bench.mkfs("foreign --size 16M --key-file key"));
    refused(open("foreign"), &["another key writes it"]);

    // An operator asks which of the two is old, and what is left of the TPM's memory.
    let check = |image: &str| bench.sealing(&format!("anchor check {image} --key-file key --anchor {anchor}"));
    assert!(ok(check("image")).contains(": equal; the anchor names this very state"));
    refused(check("yesterday"), &["image is at ", "anchor at ", ": behind; the image was rolled back"]);
    refused(bench.sealing(&format!("anchor show {anchor}")), &["--image"]);
    let shown = ok(bench.sealing(&format!("anchor show {anchor} --image image --key-file key")));
    assert!(shown.contains("(content)") && shown.contains("of some 100000 writes"), "{shown}");

    bench.tpm.tool("tpm2_nvundefine", &["0x1500017", "-C", "o"]);
    refused(check("image"), &["does not exist"]);
    refused(open("image"), &["does not exist", "opening never creates"]);
    let attributes = "policywrite|authread|no_da";
    bench.tpm.tool("tpm2_nvdefine", &["0x1500017", "-C", "o", "-s", "48", "-a", attributes]);
    refused(open("image"), &["not the one that was made"]);

    // The volume goes over to an anchor of its own choice: said outright, for nothing tells any more how old the image is.
    let next = anchor.replace("1500016", "1500030");
    let make = |more: &str| bench.sealing(&format!("anchor make image --key-file key --new-anchor {next} {more}"));
    refused(make(""), &["anchor"]);
    let made = ok(make("--abandon-anchor"));
    for part in ["two cells of the TPM's memory", "100000 writes", "a program (development)", "(checkpoint)"] {
        assert!(made.contains(part), "'{part}' is missing: {made}");
    }
    ok(bench.debug(&format!("image --key-file key --anchor {next} ls /")));

    // The anchor of now is not removed; that of before is, as far as it is still there.
    let remove = |place: &str, more: &str| bench.sealing(&format!("anchor remove {place} {more}"));
    refused(remove(&next, ""), &["--image"]);
    refused(remove(&next, "--image image --key-file key"), &["image: it is bound to tpm:0x1500030"]);
    let third = anchor.replace("1500016", "1500040");
    ok(bench.sealing(&format!("anchor make image --key-file key --anchor {next} --new-anchor {third}")));
    ok(remove(&next, "--image image --key-file key"));
    let left = bench.tpm.tool("tpm2_getcap", &["handles-nv-index"]);
    assert!(!left.contains("1500030") && !left.contains("1500031") && left.contains("1500040"), "{left}");
    ok(bench.debug(&format!("image --key-file key --anchor {third} ls /")));
    let next = third;
    refused(bench.debug(&format!("yesterday --key-file key --anchor {next} ls /")), &["anchor"]);
}

#[test]
fn a_counter_in_a_tpm_is_an_anchor_too() {
    let bench = Bench::new();
    let anchor = format!("tpm:counter:0x1500020@swtpm:127.0.0.1:{}", bench.tpm.port());
    refused(
        bench.mkfs(&format!("image --size 16M --key-file key --anchor {anchor} --anchor-policy strict")),
        &["image"],
    );
    assert!(!bench.tpm.tool("tpm2_getcap", &["handles-nv-index"]).contains("1500020"), "it was taken away again");
    ok(bench.mkfs(&format!("image --size 16M --key-file key --anchor {anchor}")));
    std::fs::copy(bench.path("image"), bench.path("yesterday")).unwrap();
    std::fs::write(bench.path("second"), "55".repeat(32)).unwrap();
    ok(bench.sealing(&format!("slots add image --key-file key --anchor {anchor} --new-key-file second")));
    ok(bench.debug(&format!("image --key-file key --anchor {anchor} ls /")));
    refused(bench.debug(&format!("yesterday --key-file key --anchor {anchor} ls /")), &["roll"]);
    // The counter under a content-bound name, and the other way round, is another anchor.
    refused(bench.debug(&format!("image --key-file key --anchor {} ls /", anchor.replace("counter:", ""))), &["exist"]);
}

/// The libraries below have a lot to say about a TPM that does not answer; the tool says it in one line.
#[test]
fn nothing_is_said_but_by_the_tool() {
    let bench = Bench::new();
    ok(bench.mkfs("image --size 16M --key-file key"));
    let run = |log: Option<&str>, line: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_debug-sefs"));
        command.args(line.split_whitespace()).current_dir(bench.folder.path()).env_remove("TSS2_LOG");
        let output = command.envs(log.map(|log| ("TSS2_LOG", log))).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let line = "image --key-file key --anchor tpm:0x1500016@swtpm:127.0.0.1:1 ls /";
    let is_ours = |line: &str| line.starts_with("debug.sefs: ");
    let said = run(None, line);
    assert!(said.contains("cannot be reached") && said.lines().all(is_ours), "{said}");
    // Who wants to know gets it.
    assert!(!run(Some("all+ERROR"), line).lines().all(is_ours), "the libraries speak where they are asked to");
}
