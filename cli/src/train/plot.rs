//! Test accuracy over epochs as an SVG that needs nothing else.

use super::contest::{Epoch, History};
use std::fmt::Write;

/// Width of the drawing.
const WIDTH: f64 = 640.0;
/// Height of the drawing.
const HEIGHT: f64 = 400.0;
/// The area of the curves: left, top, right, bottom.
const AREA: [f64; 4] = [64.0, 40.0, 620.0, 344.0];

/// What tells the chart from other drawings.
pub const TITLE: &str = "<title>bn train: test accuracy on MNIST</title>";

/// The chart of `history`.
pub fn draw(history: &History) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\" fill=\"#333\">\n\
         {TITLE}\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    let epochs = history.plain.len().max(history.batch_norm.len());
    draw_axes(&mut svg, epochs);
    draw_curve(&mut svg, &history.plain, epochs, "#c0504d", "without batch norm", 0);
    draw_curve(&mut svg, &history.batch_norm, epochs, "#1f5fa8", "with batch norm", 1);
    svg.push_str("</svg>\n");
    svg
}

/// Where epoch `epoch` of `epochs` lies, from 1.
fn across(epoch: usize, epochs: usize) -> f64 {
    let share = if epochs > 1 { (epoch - 1) as f64 / (epochs - 1) as f64 } else { 0.5 };
    AREA[0] + share * (AREA[2] - AREA[0])
}

/// Where an accuracy in [0, 1] lies.
fn up(accuracy: f64) -> f64 {
    AREA[3] - accuracy * (AREA[3] - AREA[1])
}

/// Appends a line of SVG. Writing to a string cannot fail.
macro_rules! line {
    ($svg:expr, $($arguments:tt)*) => { let _ = writeln!($svg, $($arguments)*); };
}

/// Grid, labels and title.
fn draw_axes(svg: &mut String, epochs: usize) {
    let [left, _, right, bottom] = AREA;
    for percent in (0..=100).step_by(20) {
        let y = up(f64::from(percent) / 100.0);
        line!(svg, "<line x1=\"{left}\" y1=\"{y}\" x2=\"{right}\" y2=\"{y}\" stroke=\"#ddd\"/>");
        line!(svg, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{percent} %</text>", left - 8.0, y + 4.0);
    }
    // About ten labels, whatever the number of epochs.
    for epoch in (1..=epochs).step_by(epochs.div_ceil(10).max(1)) {
        let x = across(epoch, epochs);
        line!(svg, "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{epoch}</text>", bottom + 20.0);
    }
    let middle = (left + right) / 2.0;
    line!(svg, "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">epoch</text>", bottom + 42.0);
    line!(svg, "<text x=\"{left}\" y=\"24\" font-size=\"15\">Test accuracy on MNIST</text>");
}

/// A curve with its points and its entry in the legend; `place` counts the entries.
fn draw_curve(svg: &mut String, history: &[Epoch], epochs: usize, colour: &str, name: &str, place: usize) {
    let points: Vec<(f64, f64)> =
        history.iter().zip(1..).map(|(epoch, number)| (across(number, epochs), up(epoch.test.accuracy))).collect();
    let list: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    line!(svg, "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>", list.join(" "));
    for (x, y) in points {
        line!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
    }
    // The legend stands right of the title, above the curves.
    let (x, y) = (AREA[0] + 290.0 + 145.0 * place as f64, 24.0);
    line!(svg, "<circle cx=\"{x}\" cy=\"{}\" r=\"4\" fill=\"{colour}\"/>", y - 5.0);
    line!(svg, "<text x=\"{}\" y=\"{y}\">{name}</text>", x + 9.0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::contest::Figures;

    #[test]
    fn draws_every_epoch_of_both() {
        let epoch = Epoch { test: Figures { loss: 0.0, accuracy: 0.5 }, ..Epoch::default() };
        for epochs in [1, 2, 25] {
            let history = History { plain: vec![epoch; epochs], batch_norm: vec![epoch; epochs], ..History::default() };
            let svg = draw(&history);
            // A circle per epoch and one per legend entry.
            assert_eq!(svg.matches("<circle").count(), 2 * epochs + 2);
            assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>\n"));
            assert!(!svg.contains("NaN"));
        }
    }
}
