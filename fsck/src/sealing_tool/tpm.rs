//! A root key in a TPM: made, approved for boot states, looked at.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Subcommand, Debug)]
pub(super) enum TpmCommand {
    /// Seal a fresh root key in the TPM, and write all that is pinned of it to a file that must not exist yet
    Init(InitArgs),
    /// Sign a boot state: the one that the machine is in, or another. Without a TPM if every PCR is given
    Approve(ApproveArgs),
    /// Say what the TPM is, and whether the root opens, and why not
    Status {
        /// The file that init wrote
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Print the public key of an approver of boot states
    ApproverKey {
        /// 32 bytes, or 64 hex digits
        #[arg(long, value_name = "FILE")]
        signing_key: PathBuf,
    },
}

#[derive(Args, Debug)]
pub(super) struct InitArgs {
    /// The file, for --platform tpm:config=FILE. Nothing in it is secret, but nobody else may change it
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The public key of who approves boot states, as approver-key prints it; no boot state is approved yet
    #[arg(long, value_name = "FILE", required_unless_present = "signing_key", conflicts_with = "signing_key")]
    approver: Option<PathBuf>,
    /// The approver's key: the boot state that the machine is in is approved at once
    #[arg(long, value_name = "FILE")]
    signing_key: Option<PathBuf>,
    /// The PCRs of the SHA-256 bank that make up a boot state
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [0, 2, 4, 7])]
    pcrs: Vec<u8>,
    /// The way to the TPM: device:/dev/tpmrm0, or swtpm:HOST:PORT
    #[arg(long, value_name = "TCTI", default_value = "device:/dev/tpmrm0")]
    tcti: String,
}

#[derive(Args, Debug)]
pub(super) struct ApproveArgs {
    /// The file that init wrote; the approval is added to it
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The approver's key: 32 bytes, or 64 hex digits
    #[arg(long, value_name = "FILE")]
    signing_key: PathBuf,
    /// What a PCR will hold; once for each that is not to be taken from the machine
    #[arg(long, value_name = "N=HEX")]
    pcr: Vec<String>,
    /// Keep no other approval. Whoever kept the file has them still
    #[arg(long)]
    replace: bool,
}

#[cfg(not(feature = "tpm"))]
impl super::Sealing {
    pub(super) fn tpm(&mut self, _: &TpmCommand) -> Result<bool, crate::report::Failure> {
        Err(crate::report::Failure::usage("tpm", crate::anchor::WITHOUT_TPM)
            .way_out("use the platform software, or such a build"))
    }
}

#[cfg(feature = "tpm")]
mod with_tpm {
    use std::collections::BTreeMap;
    use std::path::Path;

    use sealing::OsRng;
    use sealing::platform::tpm::{assurance, signer};
    use sealing::tpm::{APPROVER_LEN, ApproverKey, PcrSet, Root, Tcti, TpmError};
    use serde_json::{Value, json};

    use super::{ApproveArgs, InitArgs, TpmCommand};
    use crate::key_source::read_key;
    use crate::platform_source::tpm_failure;
    use crate::report::Failure;
    use crate::sealing_tool::{Sealing, TOOL, hex, public_key, write_file};
    use crate::tpm_config;

    impl Sealing {
        pub(in crate::sealing_tool) fn tpm(&mut self, command: &TpmCommand) -> Result<bool, Failure> {
            match command {
                TpmCommand::Init(args) => self.tpm_init(args),
                TpmCommand::Approve(args) => self.tpm_approve(args),
                TpmCommand::Status { config } => self.tpm_status(config),
                TpmCommand::ApproverKey { signing_key } => {
                    let public = hex(&approver(signing_key)?.public());
                    self.say(json!({"public_key": public}), || public.clone())
                }
            }
        }

        fn tpm_init(&mut self, args: &InitArgs) -> Result<bool, Failure> {
            if args.config.exists() {
                return Err(Failure::new(args.config.display(), "it exists, and a root is never replaced")
                    .way_out("name another file"));
            }
            let failure = |error: TpmError| tpm_failure(&args.config, &error);
            let key = args.signing_key.as_deref().map(approver).transpose()?;
            let public = match (&key, &args.approver) {
                (Some(key), _) => key.public(),
                (None, Some(path)) => public_key::<APPROVER_LEN>(path, "sealing tpm approver-key")?,
                (None, None) => return Err(Failure::usage("--approver", "nobody approves").way_out("give --approver")),
            };
            let tcti: Tcti = args.tcti.parse().map_err(failure)?;
            let pcrs = PcrSet::new(&args.pcrs).ok_or_else(|| {
                Failure::usage("--pcrs", "PCRs have the numbers 0 to 23").way_out("write 0,2,4,7, for one")
            })?;
            let mut root = Root::create(&tcti, &public, pcrs, &OsRng).map_err(failure)?;
            let status = root.status().map_err(failure)?;
            if let Some(key) = &key {
                root.approvals.push(key.approve(pcrs, &status.values).map_err(failure)?);
                root.open().map_err(failure)?;
            }
            write_file(&args.config, tpm_config::text(&root).as_bytes())?;
            let assurance = assurance(&status.maker, &tcti);
            let approved = root.approvals.len();
            self.say(
                json!({"config": args.config, "name": root.name.to_string(), "assurance": assurance.to_string(), "approved": approved}),
                || {
                    let next = if approved == 0 { "; no boot state is approved yet, see sealing tpm approve" } else { "" };
                    format!("{}: a root key in the TPM ({assurance}){next}", args.config.display())
                },
            )
        }

        fn tpm_approve(&mut self, args: &ApproveArgs) -> Result<bool, Failure> {
            let failure = |error: TpmError| tpm_failure(&args.config, &error);
            let (table, mut root) = tpm_config::read(&args.config)?;
            let key = approver(&args.signing_key)?;
            if key.public() != root.approver {
                return Err(Failure::new(args.signing_key.display(), "it is not the key of this root's approver")
                    .way_out("sealing tpm status shows whose it is"));
            }
            let mut given = given(&args.pcr, root.pcrs)?;
            let all_given = root.pcrs.registers().all(|register| given.contains_key(&register));
            if !all_given {
                let status = root.status().map_err(failure)?;
                if let Some(error @ TpmError::OtherTpm { .. }) = &status.refusal {
                    return Err(tpm_failure(&args.config, error));
                }
                for (register, value) in root.pcrs.registers().zip(status.values) {
                    given.entry(register).or_insert(value);
                }
            }
            let values: Vec<[u8; 32]> = given.into_values().collect();
            let approval = key.approve(root.pcrs, &values).map_err(failure)?;
            root.approvals.retain(|it| !args.replace && it.values != values);
            root.approvals.push(approval);
            tpm_config::replace(&args.config, table, &root)?;
            if args.replace {
                TOOL.warn("whoever kept the older file has the other approvals still; a new root would revoke them");
            }
            let state = state(&root, &values);
            self.say(json!({"approved": state, "approvals": root.approvals.len()}), || {
                format!("{}: approved: {}", args.config.display(), state_text(&root, &values))
            })
        }

        fn tpm_status(&mut self, config: &Path) -> Result<bool, Failure> {
            let (_, root) = tpm_config::read(config)?;
            let status = root.status().map_err(|error| tpm_failure(config, &error))?;
            let maker = &status.maker;
            let assurance = assurance(maker, &root.tcti);
            let signer = hex(&signer(&root.approver).map_err(|error| tpm_failure(config, &error))?);
            let refusal = status.refusal.as_ref().map(ToString::to_string);
            if self.json {
                self.out.json(&json!({
                    "opens": refusal.is_none(), "refusal": refusal, "tcti": root.tcti.text(), "assurance": assurance.to_string(),
                    "manufacturer": maker.manufacturer, "vendor": maker.vendor, "firmware": format!("{:#x}", maker.firmware),
                    "name": root.name.to_string(), "storage": root.storage.to_string(), "approver": hex(&root.approver),
                    "mrsigner": signer, "pcrs": state(&root, &status.values), "approvals": root.approvals.len(),
                }))?;
                return Ok(refusal.is_none());
            }
            self.out.line(format!(
                "TPM        {} {} at {} ({assurance})",
                maker.manufacturer,
                maker.vendor,
                root.tcti.text()
            ))?;
            self.out.line(format!("approver   {} (mrsigner {signer})", hex(&root.approver)))?;
            self.out.line(format!("approved   {} boot states", root.approvals.len()))?;
            for (register, value) in root.pcrs.registers().zip(&status.values) {
                self.out.line(format!("PCR {register:<6} {}", hex(value)))?;
            }
            self.out.line(match &refusal {
                None => "the root opens".to_string(),
                Some(refusal) => format!("the root does not open: {refusal}"),
            })?;
            Ok(refusal.is_none())
        }
    }

    fn approver(path: &Path) -> Result<ApproverKey, Failure> {
        let (key, warnings) = read_key(path)?;
        warnings.iter().for_each(|warning| TOOL.warn(warning));
        Ok(ApproverKey::new(&key))
    }

    /// The values on the command line.
    fn given(texts: &[String], pcrs: PcrSet) -> Result<BTreeMap<u8, [u8; 32]>, Failure> {
        let mut given = BTreeMap::new();
        for text in texts {
            let parsed = text.split_once('=').and_then(|(register, value)| {
                let register: u8 = register.parse().ok()?;
                pcrs.registers().any(|it| it == register).then_some(())?;
                Some((register, tpm_config::exactly(value)?))
            });
            let Some((register, value)) = parsed else {
                return Err(Failure::usage("--pcr", format!("'{text}' is no value of one of this root's PCRs"))
                    .way_out("write N=HEX with 64 hex digits"));
            };
            if given.insert(register, value).is_some() {
                return Err(Failure::usage("--pcr", format!("PCR {register} is given twice")).way_out("give it once"));
            }
        }
        Ok(given)
    }

    fn state(root: &Root, values: &[[u8; 32]]) -> Value {
        let both = root.pcrs.registers().zip(values);
        both.map(|(register, value)| (register.to_string(), Value::from(hex(value))))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    fn state_text(root: &Root, values: &[[u8; 32]]) -> String {
        let both = root.pcrs.registers().zip(values);
        both.map(|(register, value)| format!("PCR {register} {}", hex(value))).collect::<Vec<_>>().join(", ")
    }
}
