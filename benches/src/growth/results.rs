//! What was measured: one figure for each thing that grows, with a line and a law for each operation.

use std::fmt::Write as _;
use std::path::Path;

use sefs_tools::size;
use serde_json::{Value, json};

use super::site::Sample;
use crate::Outcome;
use crate::law::{self, Law};
use crate::svg::{self, Axis, Chart, Line, Scale, number};

/// Figures in the order in which they were begun.
#[derive(Default)]
pub(crate) struct Results {
    figures: Vec<Figure>,
}

/// What a figure shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct About {
    /// The name of its file.
    pub(crate) slug: &'static str,
    pub(crate) title: &'static str,
    /// What grows.
    pub(crate) grows: &'static str,
    pub(crate) shown: Shown,
    /// What is measured, with its unit.
    pub(crate) measured: &'static str,
}

/// How the values of what grows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    Count,
    Bytes,
    Percent,
}

/// What most figures measure.
pub(crate) const COST: &str = "µs for each operation (mean)";

pub(crate) struct Figure {
    about: About,
    lines: Vec<Growing>,
}

struct Growing {
    operation: String,
    points: Vec<Point>,
}

#[derive(Clone, Copy)]
struct Point {
    at: u64,
    value: f64,
    sample: Option<Sample>,
}

impl Results {
    /// The figure with this name, begun if it is not there.
    pub(crate) fn figure(&mut self, about: About) -> &mut Figure {
        let index = self.figures.iter().position(|figure| figure.about.slug == about.slug).unwrap_or_else(|| {
            self.figures.push(Figure { about, lines: Vec::new() });
            self.figures.len() - 1
        });
        &mut self.figures[index]
    }

    /// Tables for people, which are Markdown too.
    pub(crate) fn tables(&self) -> String {
        self.figures.iter().map(Figure::table).collect()
    }

    pub(crate) fn json(&self) -> Value {
        self.figures.iter().map(Figure::json).collect()
    }

    /// Writes each figure into a file of its name.
    pub(crate) fn draw(&self, folder: &Path) -> Outcome<()> {
        std::fs::create_dir_all(folder)?;
        for figure in &self.figures {
            let path = folder.join(format!("{}.svg", figure.about.slug));
            std::fs::write(&path, figure.chart().render()).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(())
    }
}

impl Figure {
    /// Adds what an operation costs at a point.
    pub(crate) fn cost(&mut self, operation: &str, at: u64, sample: Sample) {
        self.add(operation, Point { at, value: sample.mean_us, sample: Some(sample) });
    }

    /// Adds another value at a point.
    pub(crate) fn value(&mut self, operation: &str, at: u64, value: f64) {
        self.add(operation, Point { at, value, sample: None });
    }

    fn add(&mut self, operation: &str, point: Point) {
        match self.lines.iter_mut().find(|line| line.operation == operation) {
            Some(line) => line.points.push(point),
            None => self.lines.push(Growing { operation: operation.into(), points: vec![point] }),
        }
    }

    /// Where there are points, from left to right.
    fn places(&self) -> Vec<u64> {
        let mut places: Vec<u64> =
            self.lines.iter().flat_map(|line| line.points.iter().map(|point| point.at)).collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    fn table(&self) -> String {
        let places = self.places();
        let names: Vec<String> = places.iter().map(|place| self.about.shown.name(*place)).collect();
        let has_samples = self.lines.iter().any(|line| line.points.iter().any(|point| point.sample.is_some()));
        let what = if has_samples { "; after the slash the median" } else { "" };
        let mut text = format!("\n{}: {}{what}\n\n", self.about.title, self.about.measured);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| by {} | {} | law |", self.about.grows, names.join(" | "));
        let _ = writeln!(text, "|---|{}---|", "---|".repeat(places.len()));
        for line in &self.lines {
            let cells: Vec<String> = places.iter().map(|place| line.cell(*place)).collect();
            let law = line.law().map(|law| law.to_string()).unwrap_or_default();
            let _ = writeln!(text, "| {} | {} | {law} |", line.operation, cells.join(" | "));
        }
        text
    }

    fn json(&self) -> Value {
        let lines: Vec<Value> = self.lines.iter().map(Growing::json).collect();
        json!({
            "name": self.about.slug,
            "title": self.about.title,
            "by": self.about.grows,
            "measured": self.about.measured,
            "lines": lines,
        })
    }

    fn chart(&self) -> Chart {
        let line = |line: &Growing| Line { name: line.operation.clone(), points: line.values() };
        let ticks = self.places().into_iter().map(|place| (place as f64, self.about.shown.name(place)));
        let scale = if self.about.shown == Shown::Percent { Scale::Linear } else { Scale::Log };
        Chart {
            title: self.about.title.into(),
            x: Axis { name: self.about.grows.into(), scale, ticks: ticks.collect() },
            y: Axis { name: self.about.measured.into(), scale: Scale::Log, ticks: Vec::new() },
            lines: self.lines.iter().map(line).collect(),
        }
    }
}

impl Growing {
    fn values(&self) -> Vec<(f64, f64)> {
        self.points.iter().map(|point| (point.at as f64, point.value)).collect()
    }

    fn law(&self) -> Option<Law> {
        law::fit(&self.values())
    }

    fn cell(&self, at: u64) -> String {
        match self.points.iter().find(|point| point.at == at) {
            None => String::new(),
            Some(Point { value, sample: Some(sample), .. }) => {
                format!("{} / {}", svg::number(*value), svg::number(sample.p50_us))
            }
            Some(Point { value, sample: None, .. }) => svg::number(*value),
        }
    }

    fn json(&self) -> Value {
        let points: Vec<Value> = self.points.iter().map(Point::json).collect();
        let law = self.law();
        json!({
            "operation": self.operation,
            "law": law.map(|law| law.to_string()),
            "slope": law.map(|law| law.slope),
            "change": law.map(|law| law.change),
            "points": points,
        })
    }
}

impl Point {
    fn json(&self) -> Value {
        let mut all = json!({"at": self.at, "value": self.value});
        if let Some(sample) = self.sample {
            all["p50_us"] = json!(sample.p50_us);
            all["mean_us"] = json!(sample.mean_us);
            all["operations"] = json!(sample.operations);
            all["backend"] = json!({
                "read_bytes": sample.read_bytes,
                "written_bytes": sample.written_bytes,
                "requests": sample.requests,
            });
        }
        all
    }
}

impl Shown {
    fn name(self, value: u64) -> String {
        match self {
            Shown::Count => number(value as f64),
            Shown::Bytes => size::render(value),
            Shown::Percent => format!("{value} %"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABOUT: About =
        About { slug: "growth-x", title: "Cost by size", grows: "size", shown: Shown::Bytes, measured: COST };

    fn sample(mean_us: f64) -> Sample {
        let p50_us = mean_us / 2.0;
        Sample { p50_us, mean_us, read_bytes: 0.0, written_bytes: 8192.0, requests: 2.0, operations: 10 }
    }

    #[test]
    fn a_table_has_a_column_for_each_point_and_a_law_for_each_line() {
        let mut results = Results::default();
        for (at, mean_us) in [(1 << 10, 4.0), (1 << 20, 4096.0)] {
            results.figure(ABOUT).cost("write", at, sample(mean_us));
        }
        results.figure(ABOUT).value("read", 1 << 20, 0.5);
        let expected = "\nCost by size: µs for each operation (mean); after the slash the median\n\n\
                        | by size | 1 KiB | 1 MiB | law |\n|---|---|---|---|\n\
                        | write | 4 / 2 | 4,096 / 2,048 | linear (×1024.00) |\n| read |  | 0.5 |  |\n";
        assert_eq!(results.tables(), expected);
        let json = results.json();
        assert_eq!(json[0]["lines"][0]["points"][1]["backend"]["written_bytes"], 8192.0);
        assert_eq!(json[0]["lines"][0]["law"], "linear (×1024.00)");
    }

    #[test]
    fn every_figure_is_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut results = Results::default();
        results.figure(ABOUT).cost("write", 10, sample(4.0));
        results.figure(About { slug: "growth-y", ..ABOUT }).cost("read", 10, sample(4.0));
        results.draw(&folder.path().join("figures")).unwrap();
        for name in ["growth-x.svg", "growth-y.svg"] {
            let text = std::fs::read_to_string(folder.path().join("figures").join(name)).unwrap();
            assert!(text.starts_with("<svg") && text.contains("Cost by size"), "{text}");
        }
    }
}
