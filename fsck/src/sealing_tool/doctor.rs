//! What would no longer open after a change.

use std::path::{Path, PathBuf};

use clap::Args;
use sealing::explain::{Change, survives};
use serde_json::{Value, json};

use super::data::{HINT, Holds, look_into};
use super::{Sealing, TOOL};
use crate::report::Failure;

#[derive(Args, Debug)]
pub(super) struct DoctorArgs {
    /// Blobs and images
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The change to come
    #[arg(long, value_enum)]
    simulate: Simulated,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Simulated {
    /// The code is built anew; its signer stays and its version does not go back
    NewMrenclave,
    /// The processor's security version goes up
    #[value(name = "cpusvn+1")]
    CpuSvn,
    /// The TPM is cleared
    TpmClear,
    /// Boot measurements change
    PcrChange,
}

impl Sealing {
    pub(super) fn doctor(&mut self, args: &DoctorArgs) -> Result<bool, Failure> {
        let change = match args.simulate {
            Simulated::NewMrenclave => Change::NewMrenclave,
            Simulated::CpuSvn => Change::CpuSvnUp,
            Simulated::TpmClear => Change::TpmClear,
            Simulated::PcrChange => Change::PcrChange,
        };
        // One file that cannot be read must not hide what the others would say.
        let answers: Vec<Value> = args.files.iter().map(|file| answer(file, change)).collect();
        let fine = answers.iter().all(|answer| answer["opens"] == true);
        if self.json {
            self.out.json(&json!({"fine": fine, "authenticated": false, "files": answers}))?;
        } else {
            for answer in &answers {
                self.out
                    .line(answer["text"].as_str().map(str::to_string).unwrap_or_else(|| Value::Null.to_string()))?;
            }
            TOOL.warn(&format!("this is {HINT}; sealing slots test tells for sure what opens now"));
        }
        Ok(fine)
    }
}

/// What would become of one file; `opens` is null where that cannot be told.
fn answer(file: &Path, change: Change) -> Value {
    let name = crate::names::escaped(file.as_os_str().as_encoded_bytes());
    match survivors(file, change) {
        Err(failure) => {
            let mut value = failure.json();
            value["file"] = name.into();
            value["opens"] = Value::Null;
            value["text"] = format!("NOT LOOKED AT: {failure}").into();
            value
        }
        Ok((lost, kept, others)) => {
            let opens = kept + others > 0;
            let text = match (opens, lost) {
                (true, 0) => format!("{name}: nothing changes"),
                (true, _) => format!("{name}: {lost} platform slots are lost, {} others still open it", kept + others),
                (false, _) => format!("{name}: WOULD NO LONGER OPEN"),
            };
            json!({"file": name, "opens": opens, "lost": lost, "kept": kept, "other_slots": others, "text": text})
        }
    }
}

/// Of a file's keys those for platforms that are lost and kept, and all others.
fn survivors(file: &Path, change: Change) -> Result<(usize, usize, usize), Failure> {
    let holds = look_into(file)?;
    let lost = holds.found().iter().filter(|found| !survives(&found.header, change)).count();
    let kept = holds.found().len() - lost;
    match &holds {
        Holds::Blob(_) => Ok((lost, kept, 0)),
        Holds::Image { others, .. } => Ok((lost, kept, *others)),
        Holds::Manifest(_) => Err(Failure::new(file.display(), "it is an upgrade manifest, which no key opens")
            .way_out("name images and blobs")),
    }
}
