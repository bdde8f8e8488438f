//! A platform as it is named on a command line: `NAME[:OPTION=VALUE,…]`, or with its options in a TOML file (`config=FILE`).
//!
//! ```text
//! sgx-sim:mrenclave=HEX,mrsigner=HEX,isvprodid=7,isvsvn=2,policy=mrsigner
//! software:root=FILE,config=identity.toml
//! tpm:config=FILE[,tcti=device:/dev/tpmrm0]
//! ```
//! A TPM's configuration holds its root (`sealing tpm init` makes it) and may hold options too. Its MRSIGNER is the key of who
//! approves boot states, and what `policy` binds to if it is not given.
//!
//! *Security*: nothing here is secret but the root file, which is named and never given by value. An option that is not known,
//! or that is given twice, is refused: a misspelt restriction must not be none. A platform for development needs
//! `--allow-development`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sealing::PlatformOwner;
use sealing::platform::sgx_sim::{SgxSim, SimCpuSvn};
use sealing::platform::software::{RootError, RootFile, Software};
use sealing::platform::{Assurance, Identity, KeyPolicy, Platform, flags};
use sealing::policy::{Development, PolicyError, SealPolicy};

use crate::report::Failure;
use crate::volume_id::decode_hex;

/// What `--help` and the man pages say of `--platform`. `docs/sealing.md` has the same as a table.
pub const HELP: &str = "\
Take the key from a platform: from the identity of code that runs here. NAME is one of

  sgx-sim   keys of the SGX SDK's simulation mode, which anybody can compute: for development
  software  keys from a root key in a file (sealing root): for development
  tpm       keys from a root in a TPM 2.0 (sealing tpm init), which approved boot states open; a swtpm is for development

and OPTIONS are NAME=VALUE, separated by commas. On the command line they win over those of config=FILE.

Of every platform:
  policy=P          what the key binds to: mrenclave, mrsigner, noisvprodid, configid, isvfamilyid, isvextprodid, joined by +; \
one of the first two at least [default: mrenclave; mrsigner with tpm]
  mrenclave=HEX     the code's measurement: 64 digits
  mrsigner=HEX      its signer: 64 digits; with tpm it is the approver of boot states, and not given
  isvprodid=N       its product number, a part of the key unless policy has noisvprodid
  isvsvn=N          its version: what is sealed at one does not open at a lower one
  configid=HEX, configsvn=N, isvfamilyid=HEX, isvextprodid=HEX
                    fields of key separation and sharing (128, 32 and 32 digits); they need kss=yes
  debug=yes|no, kss=yes|no
                    attributes of the code
  config=FILE       a TOML file with options of these names
Of sgx-sim:
  cpusvn=default|upgraded|downgraded
                    the processor's version
Of software:
  root=FILE         the root key; needed
  cpusvn=HEX        16 versions of one byte each: 32 digits
Of tpm:
  config=FILE       what sealing tpm init wrote; needed
  tcti=TCTI, port=N the way to the TPM [default: the one in config]
  cpusvn=HEX        16 versions of one byte each: 32 digits

Identities are the caller's word on these platforms. sgx, sev-snp and tdx are for code that links the library.";

/// Makes the owner that `spec` names, if its platform can give keys at all.
pub fn platform_owner(spec: &str, allow_development: bool) -> Result<PlatformOwner, Failure> {
    let owner = owner_even_locked(spec, allow_development)?;
    let refusals = owner.platform().refusals();
    if refusals.is_empty() {
        return Ok(owner);
    }
    let refusals: Vec<String> =
        refusals.iter().map(|it| format!("{} is {}, approved is {}", it.field, it.here, it.sealed)).collect();
    let name = owner.platform().kind().name();
    Err(Failure::new(options_thing(name), format!("this boot state was not approved: {}", refusals.join(", ")))
        .way_out("if it is as it should be, let the approver sign it: sealing tpm approve; or use another key"))
}

/// The same, though its platform gives no key now: for those who explain why.
pub fn owner_even_locked(spec: &str, allow_development: bool) -> Result<PlatformOwner, Failure> {
    let (name, options) = spec.split_once(':').unwrap_or((spec, ""));
    let thing = format!("--platform {name}");
    let mut options = Options { values: list(&thing, options)?, thing, config: None };
    if let Some(file) = options.take("config") {
        options.read_file(Path::new(&file))?;
    }
    let policy = options.policy(if name == "tpm" { "mrsigner" } else { "mrenclave" })?;
    let identity = options.identity()?;
    let platform = options.platform(name, identity)?;
    options.finish()?;
    let development = if allow_development { Development::Allowed } else { Development::Refused };
    PlatformOwner::new(platform, policy, development).map_err(|error| {
        let way_out = match error {
            PolicyError::Development => "give --allow-development if that is what you want",
            PolicyError::EmptyField(_) => "give that field, or leave it out of policy=",
            _ => "write policy=mrenclave or policy=mrsigner",
        };
        Failure::usage(options_thing(name), error).way_out(way_out)
    })
}

/// What every output says of an owner: its platform, and if it protects nothing, that.
pub fn label(owner: &PlatformOwner) -> String {
    let platform = owner.platform();
    match platform.assurance() {
        Assurance::Development => format!("platform {} (development)", platform.kind().name()),
        assurance => format!("platform {} ({assurance})", platform.kind().name()),
    }
}

/// What the tools warn of when a platform protects nothing.
pub fn warning(owner: &PlatformOwner) -> Option<String> {
    (owner.platform().assurance() == Assurance::Development).then(|| {
        format!(
            "the platform {} is for development: its keys are no secret, and neither is what they protect",
            owner.platform().kind().name()
        )
    })
}

fn options_thing(name: &str) -> String {
    format!("--platform {name}")
}

struct Options {
    thing: String,
    /// The file that some of them are from.
    config: Option<PathBuf>,
    values: BTreeMap<String, String>,
}

fn list(thing: &str, text: &str) -> Result<BTreeMap<String, String>, Failure> {
    let mut values = BTreeMap::new();
    for item in text.split(',').filter(|item| !item.is_empty()) {
        let Some((name, value)) = item.split_once('=').filter(|(_, value)| !value.is_empty()) else {
            return Err(Failure::usage(thing, format!("'{item}' needs a value")).way_out("write OPTION=VALUE"));
        };
        if values.insert(name.to_string(), value.to_string()).is_some() {
            return Err(Failure::usage(thing, format!("{name} is given twice")).way_out("give it once"));
        }
    }
    Ok(values)
}

impl Options {
    fn take(&mut self, name: &str) -> Option<String> {
        self.values.remove(name)
    }

    /// What the command line says wins over the file.
    fn read_file(&mut self, path: &Path) -> Result<(), Failure> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::io(path, &error).way_out("check config= of --platform"))?;
        let table: toml::Table =
            toml::from_str(&text).map_err(|error| Failure::usage(path.display(), error.message()))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        self.config = Some(path.to_path_buf());
        for (name, value) in table {
            // A platform of its own reads that.
            if name == "tpm" && value.is_table() {
                continue;
            }
            let value = match value {
                // Relative to the file that names it.
                toml::Value::String(text) if name == "root" => folder.join(text).to_string_lossy().into_owned(),
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Boolean(value) => value.to_string(),
                _ => return Err(Failure::usage(path.display(), format!("{name} is neither text nor a number"))),
            };
            if name == "config" {
                return Err(Failure::usage(path.display(), "it names another configuration"));
            }
            self.values.entry(name).or_insert(value);
        }
        Ok(())
    }

    fn wrong(&self, name: &str, reason: impl std::fmt::Display) -> Failure {
        Failure::usage(&self.thing, format!("{name}: {reason}"))
    }

    fn hex<const N: usize>(&mut self, name: &str) -> Result<[u8; N], Failure> {
        let mut out = [0; N];
        if let Some(digits) = self.take(name) {
            decode_hex(digits.as_bytes(), &mut out)
                .ok_or_else(|| self.wrong(name, format!("it has {} hex digits", 2 * N)).way_out("write all of them"))?;
        }
        Ok(out)
    }

    fn number<T: std::str::FromStr + Default>(&mut self, name: &str) -> Result<T, Failure> {
        match self.take(name) {
            None => Ok(T::default()),
            Some(text) => text.parse().map_err(|_| self.wrong(name, format!("'{text}' is no number for it"))),
        }
    }

    fn flag(&mut self, name: &str) -> Result<bool, Failure> {
        match self.take(name).as_deref() {
            None | Some("false" | "no" | "0") => Ok(false),
            Some("true" | "yes" | "1") => Ok(true),
            Some(other) => Err(self.wrong(name, format!("'{other}' is neither yes nor no"))),
        }
    }

    fn policy(&mut self, default: &str) -> Result<SealPolicy, Failure> {
        let text = self.take("policy").unwrap_or_else(|| default.to_string());
        let mut bits = KeyPolicy::default();
        for word in text.split('+') {
            let known = KeyPolicy::NAMES.iter().find(|(_, name)| *name == word);
            let (bit, _) = known.ok_or_else(|| {
                let names: Vec<&str> = KeyPolicy::NAMES.iter().map(|(_, name)| *name).collect();
                self.wrong("policy", format!("'{word}' is not known"))
                    .way_out(format!("join some of {}", names.join(", ")))
            })?;
            bits = bits.with(*bit);
        }
        SealPolicy::new(bits)
            .map_err(|error| self.wrong("policy", error).way_out("write policy=mrenclave or policy=mrsigner"))
    }

    fn identity(&mut self) -> Result<Identity, Failure> {
        let mut identity = Identity {
            mrenclave: self.hex("mrenclave")?,
            mrsigner: self.hex("mrsigner")?,
            isv_prod_id: self.number("isvprodid")?,
            isv_svn: self.number("isvsvn")?,
            config_id: self.hex("configid")?,
            config_svn: self.number("configsvn")?,
            isv_family_id: self.hex("isvfamilyid")?,
            isv_ext_prod_id: self.hex("isvextprodid")?,
            ..Identity::default()
        };
        if self.flag("debug")? {
            identity.attributes.flags |= flags::DEBUG;
        }
        if self.flag("kss")? {
            identity.attributes.flags |= flags::KSS;
        }
        Ok(identity)
    }

    fn platform(&mut self, name: &str, identity: Identity) -> Result<Box<dyn Platform>, Failure> {
        match name {
            "sgx-sim" => {
                let cpu_svn = match self.take("cpusvn").as_deref() {
                    None | Some("default") => SimCpuSvn::Default,
                    Some("upgraded") => SimCpuSvn::Upgraded,
                    Some("downgraded") => SimCpuSvn::Downgraded,
                    Some(other) => {
                        return Err(self
                            .wrong("cpusvn", format!("'{other}' does not exist"))
                            .way_out("write default, upgraded or downgraded"));
                    }
                };
                Ok(Box::new(SgxSim::new(identity, cpu_svn)))
            }
            "software" => {
                let cpu_svn = self.hex("cpusvn")?;
                let path = self
                    .take("root")
                    .map(PathBuf::from)
                    .ok_or_else(|| self.wrong("root", "no root key is named").way_out("write software:root=FILE,…"))?;
                let root = RootFile::open(&path).map_err(|error| root_failure(&path, &error))?;
                Ok(Box::new(Software::new(root, identity, cpu_svn)))
            }
            "tpm" => self.tpm(identity),
            "sgx" | "sev-snp" | "tdx" => {
                Err(Failure::usage(&self.thing, "this release's tools cannot reach that platform")
                    .way_out("use sgx-sim, software or tpm, or link the sealing library"))
            }
            _ => {
                Err(Failure::usage(&self.thing, "there is no such platform").way_out("write sgx-sim, software or tpm"))
            }
        }
    }

    #[cfg(not(feature = "tpm"))]
    fn tpm(&mut self, _: Identity) -> Result<Box<dyn Platform>, Failure> {
        Err(Failure::usage(&self.thing, crate::anchor::WITHOUT_TPM).way_out("use another platform"))
    }

    #[cfg(feature = "tpm")]
    fn tpm(&mut self, identity: Identity) -> Result<Box<dyn Platform>, Failure> {
        if identity.mrsigner != [0; 32] {
            return Err(self
                .wrong("mrsigner", "with a TPM it is the key of who approves boot states")
                .way_out("leave it away"));
        }
        let cpu_svn = self.hex("cpusvn")?;
        let path = self.config.clone().ok_or_else(|| {
            self.wrong("config", "no configuration is named").way_out("make one with sealing tpm init")
        })?;
        let (_, mut root) = crate::tpm_config::read(&path)?;
        if let Some(mut tcti) = self.take("tcti") {
            // Its comma is one of those that separate options.
            if let Some(port) = self.take("port") {
                tcti += &format!(",port={port}");
            }
            root.tcti = tcti.parse().map_err(|error| self.wrong("tcti", error).way_out("write device:/dev/tpmrm0"))?;
        }
        match sealing::platform::tpm::Tpm::open(&root, identity, cpu_svn) {
            Ok(platform) => Ok(Box::new(platform)),
            Err(error) => Err(tpm_failure(&path, &error)),
        }
    }

    fn finish(&self) -> Result<(), Failure> {
        match self.values.keys().next() {
            None => Ok(()),
            Some(name) => Err(self.wrong(name, "this platform has no such option").way_out("leave it away")),
        }
    }
}

/// Why a root in a TPM does not open, and what to do.
#[cfg(feature = "tpm")]
pub fn tpm_failure(path: &Path, error: &sealing::tpm::TpmError) -> Failure {
    use sealing::tpm::TpmError;
    let way_out = match error {
        TpmError::Tcti(_) => "write device:/dev/tpmrm0, or swtpm:HOST:PORT",
        TpmError::Unreachable(_) => "check the device, its permissions, and tcti",
        TpmError::OtherTpm { .. } => {
            "use another key slot: what this TPM held is gone; then make a new root with sealing tpm init"
        }
        TpmError::NotApproved(_) | TpmError::NothingApproved => "let the approver sign this state: sealing tpm approve",
        TpmError::NotSigned | TpmError::Approval => "let the approver sign this state anew: sealing tpm approve",
        TpmError::OtherRoot { .. } | TpmError::NotARoot(_) | TpmError::Approver => {
            "take the file from a copy, and ask who changed it"
        }
        _ => "sealing tpm status says more",
    };
    Failure::new(path.display(), error).way_out(way_out)
}

/// What is wrong with a root file, and what to do.
pub fn root_failure(path: &Path, error: &RootError) -> Failure {
    let way_out = match error {
        RootError::Missing => "check the path; a new one is made with: sealing root FILE",
        RootError::Exists => "name another file",
        RootError::NotPrivate => "chmod 600 it, and think of who has read it",
        RootError::Malformed => "take it from a copy",
        _ => "check the path and its permissions",
    };
    Failure::new(path.display(), error).way_out(way_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(spec: &str) -> Result<PlatformOwner, String> {
        platform_owner(spec, true).map_err(|failure| failure.to_string())
    }

    fn refused(spec: &str, part: &str) {
        let failure = owner(spec).err().unwrap_or_else(|| panic!("{spec} was taken"));
        assert!(failure.contains(part) && failure.starts_with("--platform "), "{spec}: {failure}");
    }

    const CODE: &str = "mrenclave=1111111111111111111111111111111111111111111111111111111111111111";

    #[test]
    fn options_make_an_identity() {
        let owner = owner(&format!("sgx-sim:{CODE},isvprodid=7,isvsvn=3,cpusvn=upgraded,debug=yes")).unwrap();
        let identity = owner.platform().identity();
        assert_eq!((identity.mrenclave, identity.isv_prod_id, identity.isv_svn), ([0x11; 32], 7, 3));
        assert!(identity.is_debug() && !identity.has_kss());
        assert_eq!(owner.platform().versions().cpu_svn, SimCpuSvn::Upgraded.bytes());
        assert_eq!(owner.policy().bits(), KeyPolicy::MRENCLAVE);
        assert_eq!(label(&owner), "platform sgx-sim (development)");
        assert!(warning(&owner).unwrap().contains("no secret"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        refused("sgx-sim", "mrenclave, which is empty");
        refused(&format!("sgx-sim:{CODE},policy=mrsigner"), "mrsigner, which is empty");
        refused(&format!("sgx-sim:{CODE},policy=configid"), "neither mrenclave nor mrsigner");
        refused(&format!("sgx-sim:{CODE},policy=mrenclav"), "'mrenclav' is not known");
        refused(&format!("sgx-sim:{CODE},{CODE}"), "given twice");
        refused("sgx-sim:mrenclave=11", "64 hex digits");
        refused(&format!("sgx-sim:{CODE},isvsvn=65536"), "no number");
        refused(&format!("sgx-sim:{CODE},isvsvm=1"), "no such option");
        refused(&format!("sgx-sim:{CODE},root=/x"), "no such option");
        refused(&format!("sgx-sim:{CODE},cpusvn=9"), "does not exist");
        refused(&format!("sgx-sim:{CODE},debug"), "needs a value");
        refused(&format!("software:{CODE}"), "no root key is named");
        refused(&format!("sgx:{CODE}"), "cannot reach");
        refused("nosuch", "no such platform");
        let failure = platform_owner(&format!("sgx-sim:{CODE}"), false).err().unwrap().to_string();
        assert!(failure.contains("for development") && failure.contains("--allow-development"), "{failure}");
    }

    #[test]
    fn a_file_holds_options_and_the_command_line_wins() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("identity.toml");
        let text = format!("mrenclave = \"{}\"\nisvsvn = 2\nkss = true\nroot = \"root\"\n", "22".repeat(32));
        std::fs::write(&config, &text).unwrap();
        let spec = format!("software:config={},isvsvn=5", config.display());
        let failure = owner(&spec).err().unwrap();
        assert!(failure.contains("opening never makes one"), "{failure}");
        RootFile::create(&folder.path().join("root"), &sealing::OsRng).unwrap();
        let made = owner(&spec).unwrap();
        let identity = made.platform().identity();
        assert_eq!((identity.mrenclave, identity.isv_svn, identity.has_kss()), ([0x22; 32], 5, true));
        std::fs::write(&config, "config = \"other\"\n").unwrap();
        assert!(owner(&spec).is_err());
    }

    /// `docs/sealing.md` and `--help` name every option, and none that a platform does not take.
    #[test]
    fn what_is_documented_is_what_there_is() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/sealing.md");
        let page = std::fs::read_to_string(path).unwrap();
        let table = page.split("| option | platforms |").nth(1).unwrap().split("\n\n").next().unwrap();
        let quoted = |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(String::from).collect() };
        let (mut documented, mut seen) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
        for row in table.lines().filter(|row| row.starts_with("| `")) {
            let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
            for platform in quoted(cells[1]) {
                documented.extend(quoted(cells[0]).into_iter().map(|option| (platform.clone(), option)));
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let (root, config) = (folder.path().join("root"), folder.path().join("config"));
        RootFile::create(&root, &sealing::OsRng).unwrap();
        std::fs::write(&config, "").unwrap();
        let (digits, root, config) = ("ab".repeat(64), root.display().to_string(), config.display().to_string());
        for (option, value) in [
            ("policy", "mrenclave"),
            ("mrenclave", &digits[..64]),
            ("mrsigner", &digits[..64]),
            ("isvprodid", "1"),
            ("isvsvn", "1"),
            ("configid", &digits),
            ("configsvn", "1"),
            ("isvfamilyid", &digits[..32]),
            ("isvextprodid", &digits[..32]),
            ("debug", "yes"),
            ("kss", "yes"),
            ("config", &config),
            ("cpusvn", "default"),
            ("cpusvn", &digits[..32]),
            ("root", &root),
            ("tcti", "device"),
            ("port", "1"),
        ] {
            assert!(HELP.contains(&format!("{option}=")), "--help lacks {option}");
            for platform in ["sgx-sim", "software"] {
                let mut all = BTreeMap::from([("mrenclave", &digits[..64])]);
                if platform == "software" {
                    all.insert("root", &root);
                }
                all.insert(option, value);
                let list: Vec<String> = all.iter().map(|(name, value)| format!("{name}={value}")).collect();
                let answer = owner(&format!("{platform}:{}", list.join(","))).err().unwrap_or_default();
                let one = (platform.to_string(), option.to_string());
                assert_eq!(!answer.contains("no such option"), documented.contains(&one), "{one:?}: {answer}");
                seen.insert(one);
            }
        }
        // A TPM's are tried where there is one.
        assert!(documented.difference(&seen).all(|(platform, _)| platform == "tpm"), "{documented:?}");
    }
}
