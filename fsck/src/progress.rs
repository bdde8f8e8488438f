//! A progress bar for people: only on a terminal, and only for what takes longer than a second.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sefs::check::Stage;

/// How far something has come.
pub struct Progress {
    bar: ProgressBar,
    started: Instant,
    /// It would be drawn if it took long enough.
    wanted: bool,
    drawn: bool,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes, shown as KiB, MiB, …
    Bytes,
    /// Anything else.
    Items,
}

impl Progress {
    /// Starts at 0. `total` may be unknown; `label` says what is being done, as "sealing" or "checking data".
    pub fn start(label: &str, unit: Unit, total: Option<u64>) -> Progress {
        Progress::starting_at(Instant::now(), std::io::stderr().is_terminal(), label, unit, total)
    }

    fn starting_at(started: Instant, wanted: bool, label: &str, unit: Unit, total: Option<u64>) -> Progress {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
        let template = match (unit, total) {
            (Unit::Bytes, Some(_)) => "{msg} {bar:40} {bytes}/{total_bytes} ({bytes_per_sec}, {eta})",
            (Unit::Bytes, None) => "{msg} {spinner} {bytes} ({bytes_per_sec})",
            (Unit::Items, Some(_)) => "{msg} {bar:40} {pos}/{len} ({eta})",
            (Unit::Items, None) => "{msg} {spinner} {pos}",
        };
        // The templates are constants; the default style is right for none of them but harmless.
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style);
        bar.set_message(label.to_string());
        Progress { bar, started, wanted, drawn: false }
    }

    /// So much is done in all.
    pub fn set(&mut self, done: u64) {
        self.bar.set_position(done);
        self.show_when_due();
    }

    /// So much more is done.
    pub fn add(&mut self, more: u64) {
        self.bar.inc(more);
        self.show_when_due();
    }

    /// The total is known now, or changed.
    pub fn set_total(&mut self, total: u64) {
        self.bar.set_length(total);
    }

    /// Says something else about what is being done.
    pub fn set_label(&mut self, label: impl Into<String>) {
        // Formatting a line for nobody is work too.
        if self.wanted {
            self.bar.set_message(label.into());
        }
    }

    /// Removes the bar from the terminal. Dropping does the same.
    pub fn finish(self) {}

    fn show_when_due(&mut self) {
        if self.wanted && !self.drawn && self.started.elapsed() >= PATIENCE {
            self.drawn = true;
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// How far a check, or what is made of checks, has come: a bar for each of its parts.
pub struct StageProgress {
    /// What is being done, before the part's name.
    verb: &'static str,
    quiet: bool,
    part: Option<(Stage, Progress)>,
}

impl StageProgress {
    /// Nothing is drawn before the first [`StageProgress::set`], and nothing ever when `quiet`.
    pub fn new(verb: &'static str, quiet: bool) -> StageProgress {
        StageProgress { verb, quiet, part: None }
    }

    /// So much of this part is done; a `total` of 0 is an unknown one.
    pub fn set(&mut self, stage: Stage, done: u64, total: u64) {
        if self.quiet {
            return;
        }
        if self.part.as_ref().is_none_or(|(shown, _)| *shown != stage) {
            // The bar before it goes first, so that the two are not drawn over each other.
            self.part = None;
            let label = format!("{} {}", self.verb, stage.name());
            self.part = Some((stage, Progress::start(&label, Unit::Items, (total > 0).then_some(total))));
        }
        if let Some((_, progress)) = &mut self.part {
            progress.set_total(total);
            progress.set(done);
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn check(age: Duration, terminal: bool, drawn: bool) {
        let Some(started) = Instant::now().checked_sub(age) else { return };
        let mut progress = Progress::starting_at(started, terminal, "checking", Unit::Bytes, Some(100));
        progress.set(10);
        progress.add(5);
        assert_eq!(progress.bar.position(), 15);
        assert_eq!(progress.drawn, drawn, "{age:?}, terminal {terminal}");
    }

    #[test]
    fn only_on_a_terminal_and_only_after_a_second() {
        check(Duration::ZERO, true, false);
        check(Duration::from_secs(2), true, true);
        check(Duration::from_secs(2), false, false);
    }

    #[test]
    fn templates_are_valid() {
        for unit in [Unit::Bytes, Unit::Items] {
            for total in [None, Some(3)] {
                Progress::starting_at(Instant::now(), false, "x", unit, total).finish();
            }
        }
    }
}
