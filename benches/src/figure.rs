//! Figures: what was measured, round by round, and how it stands to its limits.

use std::fmt::Write as _;
use std::time::Duration;

use sefs_tools::Progress;
use sefs_tools::progress::Unit as Counted;
use serde_json::{Value, json};

use crate::{Args, Outcome};

/// What a figure counts; more is better for all of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// MiB in a second.
    Bytes,
    /// Operations in a second.
    Operations,
}

/// Something to measure: does it once, and says how much was done in which time.
pub(crate) type Measure<'a> = Box<dyn FnMut() -> Outcome<(u64, Duration)> + 'a>;

/// What stands beside a figure.
pub(crate) struct Limit<'a> {
    pub(crate) name: &'static str,
    pub(crate) measure: Measure<'a>,
}

/// What a figure is of.
#[derive(Clone)]
pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) backend: &'static str,
    pub(crate) threads: u64,
    pub(crate) unit: Unit,
}

struct Figure {
    subject: Subject,
    ours: Vec<f64>,
    limits: Vec<(&'static str, Vec<f64>)>,
}

/// All figures of a run.
pub(crate) struct Report {
    rounds: u64,
    figures: Vec<Figure>,
}

impl Report {
    pub(crate) fn new(rounds: u64) -> Report {
        Report { rounds, figures: Vec::new() }
    }

    /// Measures the volume and then each limit, round by round.
    pub(crate) fn measure(&mut self, subject: Subject, mut ours: Measure<'_>, limits: Vec<Limit<'_>>) -> Outcome<()> {
        let label = format!("{} ({}, {} threads)", subject.name, subject.backend, subject.threads);
        let steps = self.rounds * (1 + limits.len() as u64);
        let mut progress = Progress::start(&label, Counted::Items, Some(steps));
        let mut limits: Vec<(Limit<'_>, Vec<f64>)> = limits.into_iter().map(|limit| (limit, Vec::new())).collect();
        let mut rates = Vec::new();
        for _ in 0..self.rounds {
            rates.push(rate(subject.unit, ours()?));
            progress.add(1);
            for (limit, rates) in &mut limits {
                rates.push(rate(subject.unit, (limit.measure)()?));
                progress.add(1);
            }
        }
        progress.finish();
        let limits = limits.into_iter().map(|(limit, rates)| (limit.name, rates)).collect();
        self.figures.push(Figure { subject, ours: rates, limits });
        Ok(())
    }

    /// Measures what can be done once only, such as making names, without limits beside it.
    pub(crate) fn measure_once(
        &mut self,
        subject: Subject,
        work: &mut dyn FnMut() -> Outcome<(u64, Duration)>,
    ) -> Outcome<()> {
        let label = format!("{} ({}, {} threads)", subject.name, subject.backend, subject.threads);
        let progress = Progress::start(&label, Counted::Items, None);
        let ours = vec![rate(subject.unit, work()?)];
        progress.finish();
        self.figures.push(Figure { subject, ours, limits: Vec::new() });
        Ok(())
    }

    /// A table for people, which is Markdown too.
    pub(crate) fn table(&self) -> String {
        let mut text =
            String::from("| figure | backend | threads | measured | in relation to (median of the rounds) |\n");
        text.push_str("|---|---|---|---|---|\n");
        for Figure { subject, ours, limits } in &self.figures {
            let unit = match subject.unit {
                Unit::Bytes => "MiB/s",
                Unit::Operations => "/s",
            };
            let relations: Vec<String> =
                limits.iter().map(|(name, rates)| format!("{name} {:.2}", relation(ours, rates))).collect();
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "| {} | {} | {} | {:.0} {unit} | {} |",
                subject.name,
                subject.backend,
                subject.threads,
                median(ours.clone()),
                relations.join(", ")
            );
        }
        text
    }

    /// Everything, round by round.
    pub(crate) fn json(&self, args: &Args) -> Value {
        let figures: Vec<Value> = self.figures.iter().map(Figure::json).collect();
        json!({
            "crypto": args.setting.crypto.to_string(),
            "size_bytes": args.size,
            "memory_bytes": args.setting.memory,
            "figures": figures,
        })
    }
}

impl Figure {
    fn json(&self) -> Value {
        let limits: Vec<Value> = self
            .limits
            .iter()
            .map(|(name, rates)| json!({"name": name, "rounds": rates, "ratio": relation(&self.ours, rates)}))
            .collect();
        json!({
            "name": self.subject.name,
            "backend": self.subject.backend,
            "threads": self.subject.threads,
            "unit": match self.subject.unit {
                Unit::Bytes => "mib_per_s",
                Unit::Operations => "per_s",
            },
            "rounds": self.ours,
            "limits": limits,
        })
    }
}

fn rate(unit: Unit, (amount, time): (u64, Duration)) -> f64 {
    let amount = amount as f64 / time.as_secs_f64().max(1e-9);
    match unit {
        Unit::Bytes => amount / f64::from(1 << 20),
        Unit::Operations => amount,
    }
}

fn relation(ours: &[f64], theirs: &[f64]) -> f64 {
    median(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => f64::midpoint(values[len / 2 - 1], values[len / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_the_same_round() {
        let (mut ours, mut theirs) = ([10, 30, 90].into_iter(), [20, 30, 30].into_iter());
        let second = Duration::from_secs(1);
        let mut report = Report::new(3);
        let subject = Subject { name: "x".into(), backend: "memory", threads: 1, unit: Unit::Operations };
        let limit = Limit { name: "limit", measure: Box::new(move || Ok((theirs.next().unwrap(), second))) };
        report.measure(subject, Box::new(move || Ok((ours.next().unwrap(), second))), vec![limit]).unwrap();
        assert!(report.table().contains("| x | memory | 1 | 30 /s | limit 1.00 |"), "{}", report.table());
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
