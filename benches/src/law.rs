//! Which law a cost follows as something grows: flat, logarithmic, linear, or another power.
//!
//! A straight line through the logarithms of both has the power as its slope. A logarithm looks like a small power that
//! wanes; so where the power is small, the better of the two is told, by the squares of what is left in the logarithms.

use std::fmt;

/// A law, and by how much it says that the cost changes from the first point to the last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Law {
    pub(crate) kind: Kind,
    /// Slope of the line through the logarithms.
    pub(crate) slope: f64,
    /// The last point of that line through its first.
    pub(crate) change: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The whole change is less than a third, up or down, or less than what a machine's noise makes of a flat one.
    Flat,
    Logarithmic,
    Linear,
    Power,
}

/// Less change than this over all points is none, up or down.
const FLAT_CHANGE: f64 = 4.0 / 3.0;
/// A power this near to 1 is 1.
const LINEAR: std::ops::RangeInclusive<f64> = 0.9..=1.1;
/// A larger power is no logarithm in disguise.
const LOGARITHM_BELOW: f64 = 0.5;

/// The law of points (x, y), both above zero; `None` for fewer than two different x.
pub(crate) fn fit(points: &[(f64, f64)]) -> Option<Law> {
    let usable = |&(x, y): &(f64, f64)| x > 0.0 && y > 0.0 && x.is_finite() && y.is_finite();
    let points: Vec<(f64, f64)> = points.iter().copied().filter(usable).collect();
    let logs: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let (start, slope) = line(&logs)?;
    let ends = || logs.iter().map(|(x, _)| *x);
    let span = ends().fold(f64::MIN, f64::max) - ends().fold(f64::MAX, f64::min);
    let change = (slope * span).exp();
    let kind = if (1.0 / FLAT_CHANGE..=FLAT_CHANGE).contains(&change) {
        Kind::Flat
    } else if LINEAR.contains(&slope) {
        Kind::Linear
    } else if (0.0..LOGARITHM_BELOW).contains(&slope) && logarithm_is_nearer(&points, &logs, start, slope) {
        Kind::Logarithmic
    } else {
        Kind::Power
    };
    Some(Law { kind, slope, change })
}

/// Start and slope of the line with the least squares; `None` where all x are the same.
fn line(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let count = points.len() as f64;
    let mean = |of: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(&|point| point.0), mean(&|point| point.1));
    let spread = mean(&|point| (point.0 - x).powi(2));
    // Also for no points at all, of which everything is not a number.
    if spread.is_nan() || spread <= f64::EPSILON {
        return None;
    }
    let slope = mean(&|point| (point.0 - x) * (point.1 - y)) / spread;
    Some((y - slope * x, slope))
}

fn logarithm_is_nearer(points: &[(f64, f64)], logs: &[(f64, f64)], start: f64, slope: f64) -> bool {
    let half: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x.ln(), *y)).collect();
    let Some((base, step)) = line(&half) else { return false };
    let left = |expected: &dyn Fn(f64) -> f64| logs.iter().map(|(x, y)| (y - expected(*x)).powi(2)).sum::<f64>();
    let (by_logarithm, by_power) = (left(&|x| (base + step * x).ln()), left(&|x| start + slope * x));
    // Where it passes below zero it has no logarithm, and is not nearer.
    by_logarithm <= by_power
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Flat => f.write_str("flat"),
            Kind::Logarithmic => f.write_str("log"),
            Kind::Linear => f.write_str("linear"),
            Kind::Power => write!(f, "n^{:.2}", self.slope),
        }?;
        write!(f, " (×{:.2})", self.change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECADES: [f64; 5] = [1e2, 1e3, 1e4, 1e5, 1e6];

    fn check(law: impl Fn(f64) -> f64, expected: Kind, slope: f64) {
        let points: Vec<(f64, f64)> = DECADES.map(|x| (x, law(x))).to_vec();
        let found = fit(&points).unwrap();
        assert_eq!(found.kind, expected, "{found:?}");
        assert!((found.slope - slope).abs() < 0.01, "{found:?}");
    }

    #[test]
    fn laws_are_told_from_each_other() {
        check(|_| 12.0, Kind::Flat, 0.0);
        check(|x| 12.0 + (x * 7.0).sin(), Kind::Flat, 0.0);
        check(|x| 3.0 * x, Kind::Linear, 1.0);
        check(|x| 3.0 * x.sqrt(), Kind::Power, 0.5);
        check(|x| 3.0 * x.powf(0.3), Kind::Power, 0.3);
        check(|x| 1e9 * x.powf(-0.5), Kind::Power, -0.5);
        check(|x| 0.01 * x.powi(2), Kind::Power, 2.0);
        check(|x| x.ln(), Kind::Logarithmic, 0.118);
        check(|x| 20.0 + 10.0 * x.ln(), Kind::Logarithmic, 0.0936);
    }

    #[test]
    fn the_change_is_that_over_all_points() {
        let law = fit(&[(1.0, 5.0), (10.0, 50.0)]).unwrap();
        assert_eq!(law.to_string(), "linear (×10.00)");
        let law = fit(&[(8.0, 40.0), (2.0, 20.0)]).unwrap();
        assert_eq!(law.to_string(), "n^0.50 (×2.00)", "in any order");
    }

    #[test]
    fn one_place_has_no_law() {
        assert_eq!(fit(&[]), None);
        assert_eq!(fit(&[(1.0, 2.0)]), None);
        assert_eq!(fit(&[(1.0, 2.0), (1.0, 3.0)]), None);
        assert_eq!(fit(&[(0.0, 2.0), (1.0, 0.0), (3.0, f64::NAN), (2.0, 1.0)]), None, "nothing has a logarithm");
    }
}
