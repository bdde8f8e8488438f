//! Measures SEFS as a library OS uses it, within one process, and beside each figure its limits in the same run.
//!
//! ```text
//! main ─┬─► sequential, random, names, appends, aged ─► limits, protected ─► place ─► figure
//!       └─► growth ─► counting, law, svg, place
//! ```
//! Machines are noisy: each round measures the volume and then its limits, and what counts is the median of the rounds'
//! ratios.
#![forbid(unsafe_code)]

mod aged;
mod appends;
mod counting;
mod figure;
mod growth;
mod law;
mod limits;
mod names;
mod place;
mod pool;
mod protected;
mod random;
mod sequential;
mod svg;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use sefs_tools::{CryptoKind, size};

use crate::figure::Report;
use crate::place::{Clock, Kind, Place};

/// What a measurement comes to.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Measure SEFS within this process, beside the cipher alone, memcpy, the bare backend, and a scheme like SGX protected files.
#[derive(Parser, Debug)]
#[command(name = "sefs-bench", version, max_term_width = 100, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Where volumes are kept
    #[arg(long, value_delimiter = ',', default_value = "memory,file")]
    backend: Vec<Kind>,
    /// What to measure
    #[arg(long, value_delimiter = ',', default_value = "sequential,random,names,appends,aged")]
    work: Vec<Work>,
    /// Content that is written and read, in one file for each thread
    #[arg(long, value_parser = size::parse, default_value = "64M")]
    size: u64,
    /// Blocks at random places of a sparse file of this length instead of a full one of --size
    #[arg(long, value_parser = size::parse)]
    sparse: Option<u64>,
    /// How often a volume that is nearly full is overwritten before it is measured
    #[arg(long, default_value_t = 2)]
    overwrites: u64,
    /// How full it is, in percent
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=95), default_value_t = 90)]
    aged_fill: u64,
    /// How many files are made
    #[arg(long, default_value_t = 100_000)]
    files: u64,
    /// How many blocks are read and written at random places
    #[arg(long, default_value_t = 16_384)]
    blocks: u64,
    /// How many appends, each with a sync
    #[arg(long, default_value_t = 4000)]
    appends: u64,
    /// Bytes of a sequential call
    #[arg(long, value_delimiter = ',', value_parser = size::parse, default_value = "4K,128K,1M")]
    call: Vec<u64>,
    /// How many threads work at once
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=256), default_value = "1,2,4")]
    threads: Vec<u64>,
    /// How often everything is measured
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1000), default_value_t = 3)]
    rounds: u64,
    #[command(flatten)]
    setting: Setting,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    Growth(growth::GrowthArgs),
}

/// What every measurement needs.
#[derive(clap::Args, Clone, Debug)]
struct Setting {
    /// Memory for the volume's caches
    #[arg(long, value_parser = size::parse, default_value = "64M")]
    memory: u64,
    /// Whose AES-GCM to use
    #[arg(long, default_value_t)]
    crypto: CryptoKind,
    /// Threads that seal and open the parts of each large request
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// What time is: on the wall, or what was computed, which a busy machine disturbs less
    #[arg(long, default_value = "wall")]
    clock: Clock,
    /// Where image files are made [default: the directory for temporary files]
    #[arg(long, value_hint = clap::ValueHint::DirPath)]
    dir: Option<PathBuf>,
    /// Write all figures, round by round, to this file too
    #[arg(long, value_hint = clap::ValueHint::FilePath)]
    json: Option<PathBuf>,
}

impl Setting {
    /// A directory for image files, which goes away with them.
    fn temporary(&self) -> Outcome<tempfile::TempDir> {
        let mut builder = tempfile::Builder::new();
        Ok(match &self.dir {
            Some(dir) => builder.prefix(".sefs-bench.").tempdir_in(dir)?,
            None => builder.prefix("sefs-bench.").tempdir()?,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Work {
    Sequential,
    Random,
    Names,
    Appends,
    Aged,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match &args.command {
        Some(Command::Growth(growth)) => growth::run(growth),
        None => run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sefs-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Outcome<()> {
    let mut report = Report::new(args.rounds);
    for kind in &args.backend {
        let place = Place::new(*kind, args)?;
        for work in &args.work {
            match work {
                Work::Sequential => sequential::measure(&place, args, &mut report)?,
                Work::Random => random::measure(&place, args, &mut report)?,
                Work::Names => names::measure(&place, args, &mut report)?,
                Work::Appends => appends::measure(&place, args, &mut report)?,
                Work::Aged => aged::measure(&place, args, &mut report)?,
            }
        }
    }
    let Setting { crypto, memory, json, .. } = &args.setting;
    println!("AES-256-GCM of {crypto}, {} rounds, memory {}", args.rounds, size::render(*memory));
    print!("{}", report.table());
    if let Some(path) = json {
        std::fs::write(path, format!("{:#}\n", report.json(args)))?;
    }
    Ok(())
}
