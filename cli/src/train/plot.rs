//! Test accuracy over epochs as an SVG that needs nothing else.

use super::history::{Epoch, History};
use crate::chart::{AREA, Axis, Chart};
use maud::html;

/// What tells the chart from other drawings.
pub const TITLE: &str = "Test accuracy on MNIST";

/// The chart of `history`.
pub fn draw(history: &History) -> String {
    let curves: [(&str, &[Epoch]); 2] =
        [("without batch norm", &history.plain), ("with batch norm", &history.batch_norm)];
    let epochs = curves.iter().map(|(_, epochs)| epochs.len()).max().unwrap_or(0);
    // About ten labels, whatever the number of epochs.
    let labels = (1..=epochs).step_by(epochs.div_ceil(10).max(1)).map(|epoch| (epoch as f64, epoch.to_string()));
    let percents = (0..=100).step_by(20).map(|percent| (f64::from(percent), format!("{percent} %")));
    let chart = Chart {
        x: Axis::linear("epoch", [1.0, epochs as f64], [AREA[0] + 10.0, AREA[2] - 10.0]).labelled(labels.collect()),
        y: Axis::linear("", [0.0, 100.0], [AREA[3], AREA[1]]).labelled(percents.collect()),
    };
    let marks = html! {
        @for (series, (name, epochs)) in curves.iter().enumerate() {
            @let points: Vec<_> = epochs.iter().zip(1..).map(|(it, at)| (f64::from(at), 100.0 * it.test.accuracy)).collect();
            (chart.curve(series, &points))
            @for &(epoch, percent) in &points {
                (chart.dot(series, (epoch, percent), &format!("{name}, epoch {epoch}: {percent:.2} %")))
            }
        }
    };
    chart.file(TITLE, &curves.map(|(name, _)| name), &marks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::history::Figures;

    #[test]
    fn draws_every_epoch_of_both() {
        let epoch = Epoch { test: Figures { loss: 0.0, accuracy: 0.5 }, ..Epoch::default() };
        for epochs in [1, 2, 25] {
            let history = History { plain: vec![epoch; epochs], batch_norm: vec![epoch; epochs], ..History::default() };
            let svg = draw(&history);
            // A circle per epoch and one per legend entry.
            assert_eq!(svg.matches("<circle").count(), 2 * epochs + 2);
            assert_eq!(svg.matches("<title>").count(), 2 * epochs);
            assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>\n"));
            assert!(roxmltree::Document::parse(&svg).is_ok());
            assert!(!svg.contains("NaN"));
        }
    }
}
