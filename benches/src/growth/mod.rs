//! What an operation costs as a volume, its files, its directories or its age grow, and by which law.
//!
//! ```text
//! growth ─► fill, files, size, directory, age, memory, mount, amplification, space ─► results ─► law, svg
//!                                                                                 └► site ─► counting
//! ```
//! Each subject has a volume of its own that grows from point to point. What was measured stays measured when the run is
//! interrupted.

mod age;
mod amplification;
mod directory;
mod files;
mod fill;
mod memory;
mod mount;
mod results;
mod site;
mod size;
mod space;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sefs_tools::progress::Unit;
use sefs_tools::{Progress, interrupt};
use serde_json::json;

use crate::place::Kind;
use crate::{Outcome, Setting};
use results::Results;

/// Measure what operations cost as volumes, files, directories, their number and their age grow, and by which law.
///
/// The defaults take some minutes, and up to 8 GiB of memory with the memory backend.
#[derive(clap::Args, Debug)]
pub(crate) struct GrowthArgs {
    /// Where volumes are kept
    #[arg(long, default_value = "memory")]
    backend: Kind,
    /// What grows
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "fill,files,size,directory,age,memory,mount,amplification,space"
    )]
    subject: Vec<Subject>,
    /// Smaller sizes: less than a minute
    #[arg(long)]
    quick: bool,
    /// How often each operation is measured at a point [default: 4096; quick: 512]
    #[arg(long, value_parser = clap::value_parser!(u64).range(8..))]
    operations: Option<u64>,
    /// Size of the volumes that are filled and aged [default: 1G; quick: 128M]
    #[arg(long, value_parser = sefs_tools::size::parse)]
    volume: Option<u64>,
    /// How full it is made, in percent [default: 10,50,90]
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=95))]
    fill: Vec<u64>,
    /// Numbers of files [default: 1000,10000,100000,1000000; quick: to 10000]
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..))]
    files: Vec<u64>,
    /// Sizes of files that are written in full [default: 1M,16M,256M,1G,4G; quick: to 64M]
    #[arg(long, value_delimiter = ',', value_parser = sefs_tools::size::parse)]
    sizes: Vec<u64>,
    /// Sizes of files of which only some blocks are written [default: 1M,1G,10G,100G]
    #[arg(long, value_delimiter = ',', value_parser = sefs_tools::size::parse)]
    sparse: Vec<u64>,
    /// Numbers of entries of a directory [default: 10,100,1000,10000,100000; quick: to 10000]
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..))]
    entries: Vec<u64>,
    /// After how many overwrites of everything [default: 0,1,2,5,10; quick: 0,1,3]
    #[arg(long, value_delimiter = ',')]
    overwrites: Vec<u64>,
    /// How full the volume is that is aged, in percent
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=95), default_value_t = 90)]
    aged_fill: u64,
    /// Memory budgets [default: 4M,16M,64M,256M]
    #[arg(long, value_delimiter = ',', value_parser = sefs_tools::size::parse)]
    budgets: Vec<u64>,
    /// Sizes of sparse volumes that are mounted [default: 64M,1G,16G,256G,1T]
    #[arg(long, value_delimiter = ',', value_parser = sefs_tools::size::parse)]
    volumes: Vec<u64>,
    /// Draw each figure into this directory
    #[arg(long, value_hint = clap::ValueHint::DirPath)]
    svg: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) setting: Setting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Subject {
    /// How full the volume is
    Fill,
    /// How many files there are
    Files,
    /// How large the file is
    Size,
    /// How many entries a directory has
    Directory,
    /// How often everything was overwritten
    Age,
    /// The memory budget
    Memory,
    /// Mounting, by size of the volume
    Mount,
    /// Bytes written at the backend for each byte of data
    Amplification,
    /// Space in use for each byte of content
    Space,
}

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Subject::Fill => "fill",
            Subject::Files => "files",
            Subject::Size => "size",
            Subject::Directory => "directory",
            Subject::Age => "age",
            Subject::Memory => "memory",
            Subject::Mount => "mount",
            Subject::Amplification => "amplification",
            Subject::Space => "space",
        }
    }
}

/// What is measured, with every default filled in.
pub(crate) struct Plan {
    kind: Kind,
    setting: Setting,
    operations: u64,
    volume_bytes: u64,
    fill_percent: Vec<u64>,
    files: Vec<u64>,
    sizes: Vec<u64>,
    sparse: Vec<u64>,
    entries: Vec<u64>,
    overwrites: Vec<u64>,
    aged_percent: u64,
    budgets: Vec<u64>,
    volumes: Vec<u64>,
    interrupted: Arc<AtomicBool>,
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

impl Plan {
    fn new(args: &GrowthArgs, interrupted: Arc<AtomicBool>) -> Plan {
        // Points come in rising order, for each volume grows from one to the next.
        let chosen = |given: &[u64], usual: &[u64], quick: &[u64]| {
            let mut chosen = if !given.is_empty() {
                given
            } else if args.quick {
                quick
            } else {
                usual
            }
            .to_vec();
            chosen.sort_unstable();
            chosen.dedup();
            chosen
        };
        let either = |usual, quick| if args.quick { quick } else { usual };
        let budgets = [4 * MIB, 16 * MIB, 64 * MIB, 256 * MIB];
        let sparse = [MIB, GIB, 10 * GIB, 100 * GIB];
        let volumes = [64 * MIB, GIB, 16 * GIB, 256 * GIB, 1024 * GIB];
        Plan {
            kind: args.backend,
            setting: args.setting.clone(),
            operations: args.operations.unwrap_or(either(4096, 512)),
            volume_bytes: args.volume.unwrap_or(either(GIB, 128 * MIB)),
            fill_percent: chosen(&args.fill, &[10, 50, 90], &[10, 50, 90]),
            files: chosen(&args.files, &[1000, 10_000, 100_000, 1_000_000], &[1000, 10_000]),
            sizes: chosen(&args.sizes, &[MIB, 16 * MIB, 256 * MIB, GIB, 4 * GIB], &[MIB, 8 * MIB, 64 * MIB]),
            sparse: chosen(&args.sparse, &sparse, &sparse),
            entries: chosen(&args.entries, &[10, 100, 1000, 10_000, 100_000], &[10, 100, 1000, 10_000]),
            overwrites: chosen(&args.overwrites, &[0, 1, 2, 5, 10], &[0, 1, 3]),
            aged_percent: args.aged_fill,
            budgets: chosen(&args.budgets, &budgets, &budgets),
            volumes: chosen(&args.volumes, &volumes, &volumes),
            interrupted,
        }
    }

    /// An error once somebody asked for the end.
    pub(crate) fn go_on(&self) -> Outcome<()> {
        if self.interrupted.load(Ordering::Relaxed) { Err(Box::new(Interrupted)) } else { Ok(()) }
    }

    fn measure(&self, subject: Subject, results: &mut Results) -> Outcome<()> {
        let points = match subject {
            Subject::Fill => self.fill_percent.len(),
            Subject::Files => self.files.len(),
            Subject::Size => self.sizes.len() + self.sparse.len(),
            Subject::Directory => self.entries.len(),
            Subject::Age => self.overwrites.len(),
            Subject::Memory => self.budgets.len(),
            Subject::Mount => self.volumes.len(),
            Subject::Amplification => amplification::points(self),
            Subject::Space => space::POINTS.len(),
        };
        let progress = Progress::start(subject.name(), Unit::Items, Some(points as u64));
        let mut run = Run { plan: self, results, progress };
        match subject {
            Subject::Fill => fill::measure(&mut run),
            Subject::Files => files::measure(&mut run),
            Subject::Size => size::measure(&mut run),
            Subject::Directory => directory::measure(&mut run),
            Subject::Age => age::measure(&mut run),
            Subject::Memory => memory::measure(&mut run),
            Subject::Mount => mount::measure(&mut run),
            Subject::Amplification => amplification::measure(&mut run),
            Subject::Space => space::measure(&mut run),
        }
    }
}

/// The measuring of one subject.
pub(crate) struct Run<'a> {
    plan: &'a Plan,
    results: &'a mut Results,
    progress: Progress,
}

/// Somebody pressed Control-C.
#[derive(Debug)]
struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Measures, and shows what was measured, also where that is not all.
pub(crate) fn run(args: &GrowthArgs) -> Outcome<()> {
    // Before any other thread, which would take the signal.
    let plan = Plan::new(args, interrupt::watch());
    let mut results = Results::default();
    let outcome = args.subject.iter().try_for_each(|subject| plan.measure(*subject, &mut results));
    let setting = &plan.setting;
    println!("AES-256-GCM of {}, {} backend, {} operations at each point", setting.crypto, plan.kind, plan.operations);
    print!("{}", results.tables());
    if let Some(path) = &setting.json {
        let all = json!({
            "crypto": setting.crypto.to_string(),
            "backend": plan.kind.to_string(),
            "operations": plan.operations,
            "memory_bytes": setting.memory,
            "figures": results.json(),
        });
        std::fs::write(path, format!("{all:#}\n"))?;
    }
    if let Some(folder) = &args.svg {
        results.draw(folder)?;
    }
    outcome
}
