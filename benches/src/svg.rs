//! Line charts as SVG, to be shown in a page: readable in light and in dark, with no script and no font of their own.

use std::fmt::Write as _;

/// A chart of lines over one axis.
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) lines: Vec<Line>,
}

/// What an axis counts.
pub(crate) struct Axis {
    /// With its unit.
    pub(crate) name: String,
    pub(crate) scale: Scale,
    /// Values that are named on it, with their names; where there are none they are chosen.
    pub(crate) ticks: Vec<(f64, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// From zero on.
    Linear,
    /// Of values above zero.
    Log,
}

/// Points from left to right.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 440.0;
/// The part where the lines are: left, top, right, bottom.
const LEFT: f64 = 76.0;
const TOP: f64 = 48.0;
const RIGHT: f64 = 590.0;
const BOTTOM: f64 = 372.0;
const LEGEND_AT: f64 = RIGHT + 22.0;
const LEGEND_STEP: f64 = 24.0;

/// Colours that colour-blind readers tell apart (Okabe and Ito), a little darker or lighter to stand out from the paper.
const LIGHT: [&str; 8] = ["#0072b2", "#d55e00", "#00805a", "#a8528a", "#8a6d00", "#2f87bd", "#444444", "#b3261e"];
const DARK: [&str; 8] = ["#58b4e8", "#ff9a4d", "#3fd0a4", "#e59ac8", "#f0e060", "#9ad0f5", "#cccccc", "#ff8a80"];

impl Chart {
    /// The file's text.
    pub(crate) fn render(&self) -> String {
        let across = Scaling::new(&self.x, self.values(|point| point.0), LEFT, RIGHT);
        let up = Scaling::new(&self.y, self.values(|point| point.1), BOTTOM, TOP);
        let mut out = head(&self.title);
        self.axes(&mut out, &across, &up);
        for (index, line) in self.lines.iter().enumerate() {
            draw(&mut out, index, line, &across, &up);
        }
        out.push_str("</svg>\n");
        out
    }

    fn values(&self, of: impl Fn(&(f64, f64)) -> f64) -> Vec<f64> {
        self.lines.iter().flat_map(|line| line.points.iter().map(&of)).collect()
    }

    fn axes(&self, out: &mut String, across: &Scaling, up: &Scaling) {
        for (value, name) in &up.ticks {
            let y = up.place(*value);
            element(out, format_args!(r#"<line class="grid" x1="{LEFT}" y1="{y:.1}" x2="{RIGHT}" y2="{y:.1}"/>"#));
            let (x, y) = (LEFT - 8.0, y + 4.0);
            element(out, format_args!(r#"<text x="{x}" y="{y:.1}" text-anchor="end">{}</text>"#, escaped(name)));
        }
        for (value, name) in &across.ticks {
            let x = across.place(*value);
            element(out, format_args!(r#"<line class="grid" x1="{x:.1}" y1="{TOP}" x2="{x:.1}" y2="{BOTTOM}"/>"#));
            let y = BOTTOM + 20.0;
            element(out, format_args!(r#"<text x="{x:.1}" y="{y}" text-anchor="middle">{}</text>"#, escaped(name)));
        }
        element(out, format_args!(r#"<path class="axis" d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/>"#));
        let (middle, below) = (f64::midpoint(LEFT, RIGHT), BOTTOM + 48.0);
        let name = escaped(&self.x.name);
        element(out, format_args!(r#"<text class="name" x="{middle}" y="{below}" text-anchor="middle">{name}</text>"#));
        let (middle, name) = (f64::midpoint(TOP, BOTTOM), escaped(&self.y.name));
        element(
            out,
            format_args!(
                r#"<text class="name" transform="translate(20 {middle}) rotate(-90)" text-anchor="middle">{name}</text>"#
            ),
        );
    }
}

fn head(title: &str) -> String {
    let title = escaped(title);
    let mut styles = [String::new(), String::new()];
    for (style, colours) in styles.iter_mut().zip([LIGHT, DARK]) {
        for (index, colour) in colours.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = write!(style, ".s{index}{{stroke:{colour}}}.f{index}{{fill:{colour}}}");
        }
    }
    let [light, dark] = styles;
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{title}">
<title>{title}</title>
<style>
text{{font:12px system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif;fill:#24292f}}
.title{{font-size:16px;font-weight:600}}.name{{font-size:13px}}
.paper{{fill:#ffffff}}.grid{{stroke:#d8dee4;stroke-width:1}}.axis{{stroke:#57606a;stroke-width:1.5;fill:none}}
.line{{fill:none;stroke-width:2}}{light}
@media (prefers-color-scheme:dark){{text{{fill:#e6edf3}}.paper{{fill:#0d1117}}.grid{{stroke:#30363d}}.axis{{stroke:#8b949e}}{dark}}}
</style>
<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>
<text class="title" x="{LEFT}" y="28">{title}</text>
"##
    )
}

fn draw(out: &mut String, index: usize, line: &Line, across: &Scaling, up: &Scaling) {
    let style = index % LIGHT.len();
    let shown = line.points.iter().filter(|(x, y)| across.shows(*x) && up.shows(*y));
    let places: Vec<(f64, f64)> = shown.map(|(x, y)| (across.place(*x), up.place(*y))).collect();
    let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
    if !path.is_empty() {
        element(out, format_args!(r#"<path class="line s{style}" d="M{}"/>"#, path.join("L")));
    }
    for place in &places {
        mark(out, index, *place);
    }
    let y = TOP + 8.0 + LEGEND_STEP * index as f64;
    let (middle, end, text) = (LEGEND_AT + 12.0, LEGEND_AT + 24.0, LEGEND_AT + 32.0);
    element(out, format_args!(r#"<path class="line s{style}" d="M{LEGEND_AT} {y}H{end}"/>"#));
    mark(out, index, (middle, y));
    element(out, format_args!(r#"<text x="{text}" y="{}">{}</text>"#, y + 4.0, escaped(&line.name)));
}

/// A mark of a shape that tells lines apart where colours do not.
fn mark(out: &mut String, index: usize, (x, y): (f64, f64)) {
    let style = index % LIGHT.len();
    let path = match index % 4 {
        0 => format!("M{:.1} {y:.1}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z", x - 4.0),
        1 => format!("M{:.1} {:.1}h7.6v7.6h-7.6z", x - 3.8, y - 3.8),
        2 => format!("M{x:.1} {:.1}l4.8 8.4h-9.6z", y - 5.2),
        _ => format!("M{x:.1} {:.1}l5 5l-5 5l-5 -5z", y - 5.0),
    };
    element(out, format_args!(r#"<path class="f{style}" d="{path}"/>"#));
}

fn element(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{text}");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Where the values of an axis stand.
struct Scaling {
    scale: Scale,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    ticks: Vec<(f64, String)>,
}

impl Scaling {
    /// Leaves room at both ends, so that no mark stands on the edge.
    fn new(axis: &Axis, mut values: Vec<f64>, from: f64, to: f64) -> Scaling {
        values.extend(axis.ticks.iter().map(|(value, _)| *value));
        values.retain(|value| value.is_finite() && (axis.scale == Scale::Linear || *value > 0.0));
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (low, high) = match axis.scale {
            _ if values.is_empty() => (1.0, 10.0),
            Scale::Linear => (0.0, if high > 0.0 { high * 1.06 } else { 1.0 }),
            // At least a factor of four, so that noise on a flat line looks like noise.
            Scale::Log => {
                let stretch = (4.0 / (high / low)).max(1.0).sqrt().max((high / low).powf(0.04)).max(1.05);
                (low / stretch, high * stretch)
            }
        };
        let mut scaling = Scaling { scale: axis.scale, low, high, from, to, ticks: axis.ticks.clone() };
        if scaling.ticks.is_empty() {
            scaling.ticks = scaling.chosen();
        }
        scaling
    }

    fn shows(&self, value: f64) -> bool {
        value.is_finite() && (self.scale == Scale::Linear || value > 0.0)
    }

    fn place(&self, value: f64) -> f64 {
        let part = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log => (value / self.low).ln() / (self.high / self.low).ln(),
        };
        self.from + part * (self.to - self.from)
    }

    /// Round values: powers of ten, and 2 and 5 times these where there are few decades.
    fn chosen(&self) -> Vec<(f64, String)> {
        let steps: Vec<f64> = match self.scale {
            Scale::Log => {
                let parts: &[f64] = if self.high / self.low > 2e3 { &[1.0] } else { &[1.0, 2.0, 5.0] };
                let (first, last) = (self.low.log10().floor(), self.high.log10().ceil());
                let decades = (0..=((last - first) as u32).min(40)).map(|step| 10f64.powf(first + f64::from(step)));
                decades.flat_map(|decade| parts.iter().map(move |part| part * decade)).collect()
            }
            Scale::Linear => {
                let rough = self.high / 5.0;
                let decade = 10f64.powf(rough.log10().floor());
                let step = [1.0, 2.0, 5.0, 10.0].map(|part| part * decade).into_iter().find(|step| *step >= rough);
                (0..=10).map(|count| f64::from(count) * step.unwrap_or(rough)).collect()
            }
        };
        let inside = steps.into_iter().filter(|step| (self.low..=self.high).contains(step));
        inside.map(|step| (step, number(step))).collect()
    }
}

/// A number as short as three digits are.
pub(crate) fn number(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        size if size < 100.0 => (2.0 - size.log10().floor()).clamp(0.0, 6.0) as usize,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    // Groups of three, as in 1,000,000.
    let (whole, rest) = text.split_once('.').map_or((text, None), |(whole, rest)| (whole, Some(rest)));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |whole| ("-", whole));
    let grouped: Vec<String> = whole.bytes().rev().collect::<Vec<u8>>().chunks(3).rev().map(reversed).collect();
    format!("{sign}{}{}", grouped.join(","), rest.map(|rest| format!(".{rest}")).unwrap_or_default())
}

fn reversed(digits: &[u8]) -> String {
    digits.iter().rev().map(|digit| char::from(*digit)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(scale: Scale) -> Axis {
        Axis { name: "cost, µs".into(), scale, ticks: Vec::new() }
    }

    fn scaling(scale: Scale, values: &[f64]) -> Scaling {
        Scaling::new(&axis(scale), values.to_vec(), BOTTOM, TOP)
    }

    #[test]
    fn a_decade_is_as_long_everywhere_on_a_logarithmic_axis() {
        let scaling = scaling(Scale::Log, &[1.0, 1000.0]);
        let places = [1.0, 10.0, 100.0, 1000.0].map(|value| scaling.place(value));
        let steps = [places[0] - places[1], places[1] - places[2], places[2] - places[3]];
        assert!(steps.iter().all(|step| (step - steps[0]).abs() < 1e-9 && *step > 0.0), "{places:?}");
        assert!(places[0] < BOTTOM && places[3] > TOP, "no mark on the edge: {places:?}");
        assert!(places[0] - places[3] > 0.8 * (BOTTOM - TOP), "the room is used: {places:?}");
    }

    #[test]
    fn a_linear_axis_begins_at_zero() {
        let scaling = scaling(Scale::Linear, &[10.0, 90.0]);
        assert_eq!(scaling.place(0.0), BOTTOM);
        let half = scaling.place(45.0);
        assert!((half - f64::midpoint(BOTTOM, scaling.place(90.0))).abs() < 1e-9, "{half}");
        let names: Vec<&str> = scaling.ticks.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["0", "20", "40", "60", "80"]);
    }

    #[test]
    fn noise_is_not_drawn_as_large_as_the_chart() {
        let scaling = scaling(Scale::Log, &[10.0, 11.0]);
        assert!(scaling.place(10.0) - scaling.place(11.0) < 0.1 * (BOTTOM - TOP));
        assert!(scaling.ticks.len() >= 2, "{:?}", scaling.ticks);
    }

    #[test]
    fn named_ticks_stand_where_their_values_do() {
        let ticks = vec![(4.0, "4 MiB".into()), (256.0, "256 MiB".into())];
        let line = Line { name: "read & <write>".into(), points: vec![(4.0, 1.0), (256.0, 8.0)] };
        let x = Axis { name: "memory".into(), scale: Scale::Log, ticks };
        let chart = Chart { title: "Cost".into(), x, y: axis(Scale::Log), lines: vec![line] };
        let across = Scaling::new(&chart.x, vec![4.0, 256.0], LEFT, RIGHT);
        let text = chart.render();
        for wanted in [
            format!(
                r#"<text x="{:.1}" y="{}" text-anchor="middle">256 MiB</text>"#,
                across.place(256.0),
                BOTTOM + 20.0
            ),
            "read &amp; &lt;write&gt;</text>".into(),
            "cost, µs</text>".into(),
            "prefers-color-scheme:dark".into(),
        ] {
            assert!(text.contains(&wanted), "{wanted} is not in {text}");
        }
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    }

    #[test]
    fn what_cannot_be_shown_is_left_out() {
        let points = vec![(1.0, 0.0), (2.0, f64::NAN), (3.0, 5.0)];
        let line = Line { name: "x".into(), points };
        let chart = Chart { title: "t".into(), x: axis(Scale::Log), y: axis(Scale::Log), lines: vec![line] };
        let text = chart.render();
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        let empty = Chart { title: "t".into(), x: axis(Scale::Log), y: axis(Scale::Linear), lines: Vec::new() };
        assert!(!empty.render().contains("NaN"));
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.05, "0.05"),
            (0.123_456, "0.123"),
            (1.5, "1.5"),
            (12.34, "12.3"),
            (100.0, "100"),
            (1234.5, "1,234"),
            (1e6, "1,000,000"),
            (-2.5, "-2.5"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
