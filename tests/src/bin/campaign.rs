//! Long campaigns against SEFS, from the command line.

use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::thread;

use nix::sys::signal::{SigSet, Signal};
use sefs_tests::campaign::{Campaign, Failure, crash, quiet_panics, storm, tamper, threads};

const HELP: &str = "\
Try to break what SEFS promises, for as long as you like.

usage: campaign crash [--states N] [--seed N]    crash states of bounded, random and threaded workloads (100000)
       campaign tamper [--thin N] [--seed N]     every change of a small image, or one in N (1)
       campaign storm [--runs N] [--seed N]      workloads on a host that fails and lies (2000)
       campaign again KIND --seed N              one run of KIND long, threads or storm, by the seed that a failure printed

Control-C ends it with a summary. Exit status: 0 nothing was broken, 1 something was, 2 usage.";

/// What the command line asks for.
struct Asked {
    what: String,
    kind: String,
    size: Option<u64>,
    seed: Option<u64>,
}

fn main() -> ExitCode {
    let Some(asked) = Asked::from(std::env::args().skip(1)) else {
        eprintln!("{HELP}");
        return ExitCode::from(2);
    };
    let seed = asked.seed.unwrap_or_else(from_clock);
    let mut campaign = Campaign::new(seed).telling();
    stop_on_interrupt(&campaign);
    quiet_panics();
    println!("campaign {} {}--seed {seed}", asked.what, asked.kind);
    let outcome = asked.run(&mut campaign, seed);
    eprintln!();
    let ended = if campaign.stopped() { "interrupted after" } else { "done in" };
    println!("{ended} {}", campaign.line());
    match outcome {
        None => {
            eprintln!("{HELP}");
            ExitCode::from(2)
        }
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(failure)) => {
            println!("FAILED: {failure}");
            ExitCode::FAILURE
        }
    }
}

impl Asked {
    fn from(mut args: impl Iterator<Item = String>) -> Option<Asked> {
        let what = args.next()?;
        let kind = if what == "again" { args.next()? + " " } else { String::new() };
        let mut asked = Asked { what, kind, size: None, seed: None };
        while let Some(option) = args.next() {
            let value = Some(args.next()?.parse().ok()?);
            match (asked.what.as_str(), option.as_str()) {
                (_, "--seed") => asked.seed = value,
                ("crash", "--states") | ("tamper", "--thin") | ("storm", "--runs") => asked.size = value,
                _ => return None,
            }
        }
        Some(asked)
    }

    fn run(&self, campaign: &mut Campaign, seed: u64) -> Option<Result<(), Failure>> {
        match (self.what.as_str(), self.kind.trim()) {
            ("crash", _) => Some(crash::run(campaign, self.size.unwrap_or(100_000))),
            ("tamper", _) => Some(tamper::run(campaign, self.size.unwrap_or(1).max(1))),
            ("storm", _) => Some(storm::run(campaign, self.size.unwrap_or(2000))),
            ("again", "long") => Some(crash::long_workload(campaign, seed, u64::MAX)),
            ("again", "threads") => Some(threads::run(campaign, seed, u64::MAX)),
            ("again", "storm") => Some(storm::storm(campaign, seed)),
            _ => None,
        }
    }
}

/// The signal is taken by a thread that waits for it, so that the summary is printed in peace.
fn stop_on_interrupt(campaign: &Campaign) {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    let stop = campaign.stop_flag();
    if signals.thread_block().is_ok() {
        thread::spawn(move || {
            if signals.wait().is_ok() {
                stop.store(true, Ordering::Relaxed);
            }
        });
    }
}

fn from_clock() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(1, |since| since.as_secs() ^ u64::from(since.subsec_nanos()) << 24)
}
