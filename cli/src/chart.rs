//! Charts as SVG: axes, grid and marks, for the page of records and the course of a training.
//!
//! A drawing is as wide as a phone's screen; wider screens place several in a row. Colours are CSS classes, so that they follow
//! light and dark mode, and every mark carries a `<title>` that browsers show as a tooltip.

use maud::{Markup, PreEscaped, html};

/// The rules for drawings, with colours as `var(--NAME)`.
const RULES: &str = include_str!("chart.css");

/// Colours by name, on light and on dark paper.
const PALETTE: [(&str, [&str; 2]); 14] = [
    ("paper", ["#ffffff", "#14181c"]),
    ("ink", ["#1c2126", "#e3e8ec"]),
    ("soft", ["#5d6771", "#9aa5af"]),
    ("rule", ["#d9dee3", "#323a42"]),
    ("band", ["#f4f6f8", "#1c2228"]),
    ("mark", ["#e8f1fb", "#1c3148"]),
    ("c0", ["#2f6fb5", "#6aa8e8"]),
    ("c1", ["#d9772b", "#f09a54"]),
    ("c2", ["#2b8a5b", "#58bd8a"]),
    ("c3", ["#a2497f", "#d985b7"]),
    ("c4", ["#8a7a1f", "#c9b84f"]),
    ("c5", ["#4a9fb8", "#79cbe2"]),
    ("c6", ["#c24444", "#ee7d7d"]),
    ("c7", ["#6b5cb8", "#a397ea"]),
];
/// Colours for series, `c0` and on; with more series they come again.
const COLOURS: usize = 8;

/// Width of every drawing.
const WIDTH: f64 = 400.0;
/// Room below an axis, for its figures and its name.
const FOOT: f64 = 40.0;
/// From this height on, figures stand above the drawing too.
const TALL: f64 = 400.0;
/// The area of a chart of lines: left, top, right, bottom.
pub const AREA: [f64; 4] = [54.0, 26.0, 390.0, 240.0];

/// The style of a page with drawings: the colours by name, and the rules.
pub fn page_style() -> String {
    let [light, dark] = [0, 1].map(|paper: usize| -> String {
        PALETTE.iter().map(|(name, colours)| format!("--{name}: {};", colours[paper])).collect()
    });
    format!(":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n{RULES}")
}

/// The rules with the colours themselves: not all that shows SVG knows variables.
fn own_style() -> String {
    let [light, dark] = [0, 1].map(|paper: usize| {
        PALETTE
            .iter()
            .fold(RULES.to_owned(), |rules, (name, colours)| rules.replace(&format!("var(--{name})"), colours[paper]))
    });
    format!("{light}@media (prefers-color-scheme: dark) {{\n{dark}}}\n")
}

/// Name of the class that colours the series of a place.
pub fn colour(place: usize) -> String {
    format!("c{}", place % COLOURS)
}

/// A number as text in a drawing: a tenth of a unit is less than anyone sees.
pub fn place(value: f64) -> String {
    format!("{value:.1}")
}

/// Names of series beside their colours.
pub fn legend<'a>(names: impl IntoIterator<Item = &'a str>) -> Markup {
    html! {
        ul.legend {
            @for (number, name) in names.into_iter().enumerate() {
                li { span class={ "swatch " (colour(number)) } {} (name) }
            }
        }
    }
}

/// From figures to places in a drawing.
pub struct Axis {
    name: &'static str,
    /// The lowest and the highest figure.
    figures: [f64; 2],
    /// Where they lie.
    places: [f64; 2],
    logarithmic: bool,
    /// Figures that are marked, and how they are written.
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// An axis from one figure to another.
    pub fn linear(name: &'static str, figures: [f64; 2], places: [f64; 2]) -> Self {
        Self { name, figures, places, logarithmic: false, ticks: Vec::new() }.with_ticks(multiples(figures[1]))
    }

    /// An axis that has room around `values`, which are above 0.
    pub fn around(name: &'static str, values: impl Iterator<Item = f64> + Clone, places: [f64; 2]) -> Self {
        let (low, high) = (values.clone().fold(f64::MAX, f64::min), values.fold(f64::MIN_POSITIVE, f64::max));
        let figures = [low / 1.5, high * 1.5];
        Self { name, figures, places, logarithmic: true, ticks: Vec::new() }.with_ticks(powers(figures[0], figures[1]))
    }

    /// An axis without figures: places are given as they are.
    pub fn bare(places: [f64; 2]) -> Self {
        Self { name: "", figures: places, places, logarithmic: false, ticks: Vec::new() }
    }

    /// The same with other ticks.
    pub fn labelled(self, ticks: Vec<(f64, String)>) -> Self {
        Self { ticks, ..self }
    }

    /// The same with its ticks written otherwise.
    pub fn written(self, write: impl Fn(f64) -> String) -> Self {
        let ticks = self.ticks.iter().map(|&(tick, _)| (tick, write(tick))).collect();
        Self { ticks, ..self }
    }

    /// At most about eight of round figures, each with its number of digits after the point.
    fn with_ticks(self, round: Vec<(f64, usize)>) -> Self {
        let [low, high] = self.figures;
        let inside: Vec<_> = round.into_iter().filter(|&(tick, _)| tick >= low && tick <= high * 1.0001).collect();
        let step = inside.len().div_ceil(8).max(1);
        let written = |(tick, decimals): (f64, usize)| (tick, format!("{tick:.decimals$}"));
        self.labelled(inside.into_iter().step_by(step).map(written).collect())
    }

    /// Where a figure lies; one beyond the axis lies at its end.
    pub fn at(&self, figure: f64) -> f64 {
        let scale = |it: f64| if self.logarithmic { it.ln() } else { it };
        let [low, high] = self.figures.map(scale);
        let share = if high > low { ((scale(figure) - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 };
        self.places[0] + share * (self.places[1] - self.places[0])
    }

    /// Whether a figure lies beyond the end.
    pub fn is_beyond(&self, figure: f64) -> bool {
        figure > self.figures[1]
    }
}

/// Digits after the point of a figure whose first digit stands for a power of ten.
fn decimals(power: i32) -> usize {
    usize::try_from(-power).unwrap_or(0)
}

/// From 0 to `high` in steps of 1, 2 or 5 of a power of ten.
fn multiples(high: f64) -> Vec<(f64, usize)> {
    let rough = high / 7.0;
    let power = rough.log10().floor() as i32;
    let unit = 10f64.powi(power);
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|it| it * unit).find(|&it| it >= rough).unwrap_or(rough);
    (0..=7).map(|number| (f64::from(number) * step, decimals(power))).collect()
}

/// The powers of ten from `low` to `high`; where they are few, their twofold and fivefold too.
fn powers(low: f64, high: f64) -> Vec<(f64, usize)> {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let digits: &[f64] = if high / low < 500.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let of = |power: i32| digits.iter().map(move |digit| (digit * 10f64.powi(power), decimals(power)));
    (first..=last).flat_map(of).collect()
}

/// A drawing: two axes, and marks by figures on them.
pub struct Chart {
    /// Across.
    pub x: Axis,
    /// Upward.
    pub y: Axis,
}

impl Chart {
    fn height(&self) -> f64 {
        self.y.places[0] + FOOT
    }

    /// The drawing inside a page; `label` is for those who do not see it.
    pub fn draw(&self, label: &str, marks: &Markup) -> Markup {
        html! {
            svg viewBox=(format!("0 0 {WIDTH} {}", self.height())) role="img" aria-label=(label) {
                (self.frame())
                (marks)
            }
        }
    }

    /// The drawing as a file that needs nothing else, with a title and the names of its series.
    pub fn file(&self, title: &str, names: &[&str], marks: &Markup) -> String {
        const HEAD: f64 = 48.0;
        let (width, height) = (WIDTH, self.height() + HEAD);
        let svg = html! {
            svg xmlns="http://www.w3.org/2000/svg" viewBox=(format!("0 -{HEAD} {width} {height}"))
                width=(1.6 * width) height=(1.6 * height) role="img" aria-label=(title) {
                style { (PreEscaped(own_style())) }
                rect.paper y={ "-" (HEAD) } width=(width) height=(height) {}
                text.title x="4" y="-28" { (title) }
                @for (number, name) in names.iter().enumerate() {
                    circle class=(colour(number)) cx=(10 + 140 * number) cy="-11" r="4" {}
                    text x=(18 + 140 * number) y="-7" { (name) }
                }
                (self.frame())
                (marks)
            }
        };
        svg.into_string() + "\n"
    }

    /// The grid, with the figures and names of the axes.
    fn frame(&self) -> Markup {
        let ([left, right], [bottom, top]) = (self.x.places, self.y.places);
        let above = (bottom - top > TALL).then_some(top - 6.0);
        html! {
            @for (figure, label) in &self.x.ticks {
                @let at = place(self.x.at(*figure));
                line.grid x1=(at) x2=(at) y1=(place(top)) y2=(place(bottom)) {}
                @for y in [bottom + 16.0].into_iter().chain(above) {
                    text.tick x=(at) y=(place(y)) text-anchor="middle" { (label) }
                }
            }
            @for (figure, label) in &self.y.ticks {
                @let at = self.y.at(*figure);
                line.grid x1=(AREA[0]) x2=(AREA[2]) y1=(place(at)) y2=(place(at)) {}
                text.tick x=(AREA[0] - 6.0) y=(place(at + 4.0)) text-anchor="end" { (label) }
            }
            text.value x=((left + right) / 2.0) y=(place(bottom + 34.0)) text-anchor="middle" { (self.x.name) }
            text.value x="4" y="13" { (self.y.name) }
        }
    }

    /// A line through points.
    pub fn curve(&self, series: usize, points: &[(f64, f64)]) -> Markup {
        let points: Vec<String> =
            points.iter().map(|&(x, y)| format!("{:.1},{:.1}", self.x.at(x), self.y.at(y))).collect();
        html! { polyline class={ "line " (colour(series)) } points=(points.join(" ")) {} }
    }

    /// A mark with its tooltip.
    pub fn dot(&self, series: usize, (x, y): (f64, f64), text: &str) -> Markup {
        html! {
            circle class=(colour(series)) cx=(place(self.x.at(x))) cy=(place(self.y.at(y))) r="3.5" { title { (text) } }
        }
    }

    /// A dotted line from left to right, with its tooltip.
    pub fn limit(&self, series: usize, figure: f64, text: &str) -> Markup {
        let y = place(self.y.at(figure));
        html! {
            line class={ "limit " (colour(series)) } x1=(AREA[0]) x2=(AREA[2]) y1=(y) y2=(y) { title { (text) } }
        }
    }

    /// A dashed line from top to bottom that bars are held against. Its name stands above, before the line or after it.
    pub fn reference(&self, figure: f64, name: &str, before: bool) -> Markup {
        let (x, [bottom, top]) = (self.x.at(figure), self.y.places);
        let (shift, anchor) = if before { (-5.0, "end") } else { (5.0, "start") };
        html! {
            line.reference x1=(place(x)) x2=(place(x)) y1=(place(top)) y2=(place(bottom)) {}
            text.value x=(place(x + shift)) y=(place(top - 24.0)) text-anchor=(anchor) { (name) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        let linear = Axis::linear("", [0.0, 1.25], [0.0, 1.0]).ticks;
        let labels: Vec<_> = linear.iter().map(|(_, label)| label.as_str()).collect();
        assert_eq!(labels, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0", "1.2"]);
        let log = Axis::around("", [4.5, 80.0 / 3.0].into_iter(), [0.0, 1.0]).ticks;
        assert_eq!(log.into_iter().map(|(tick, _)| tick).collect::<Vec<_>>(), [5.0, 10.0, 20.0]);
    }

    #[test]
    fn a_file_has_colours_of_its_own_for_light_and_dark() {
        let style = own_style();
        assert!(!style.contains("var("), "{style}");
        assert!(PALETTE.iter().all(|(name, colours)| {
            !RULES.contains(&format!("--{name})")) || colours.iter().all(|colour| style.contains(colour))
        }));
        assert!(page_style().matches("--ink: #").count() == 2);
    }
}
