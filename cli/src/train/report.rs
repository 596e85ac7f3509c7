//! What is printed at the end, and what is written to files.

use super::{
    check::QuantityRow,
    data::Mnist,
    error::TrainError,
    history::{Epoch, Figures, History, TrainSettings},
    parameters::SIZES,
};
use crate::terminal::{number, prose, table, text};

/// Says what is about to happen.
pub fn print_heading(mnist: &Mnist, settings: &TrainSettings, adapter_name: &str) {
    let sizes: Vec<String> = SIZES.iter().map(usize::to_string).collect();
    println!("adapter        {adapter_name}");
    println!("data           {}: {} training, {} test images", mnist.source, mnist.train.count(), mnist.test.count());
    println!("network        {}, sigmoids, with and without batch norm", sizes.join("-"));
    println!(
        "training       {} epochs, batches of {}, learning rate {} falling to 0, seed {}",
        settings.epochs, settings.batch, settings.rate, settings.seed
    );
    println!();
}

/// Prints loss and accuracy per epoch, and the shape of the two curves.
pub fn print_history(history: &History) {
    let columns = [
        number("epoch"),
        number("plain\nloss"),
        number("plain\ntrain %"),
        number("plain\ntest %"),
        number("batch norm\nloss"),
        number("batch norm\ntrain %"),
        number("batch norm\ntest %"),
    ];
    let rows = history.plain.iter().zip(&history.batch_norm).enumerate().map(|(number, (plain, batch_norm))| {
        let cells = |epoch: &Epoch| {
            [
                format!("{:.4}", epoch.train.loss),
                format!("{:.2}", 100.0 * epoch.train.accuracy),
                format!("{:.2}", 100.0 * epoch.test.accuracy),
            ]
        };
        std::iter::once((number + 1).to_string()).chain(cells(plain)).chain(cells(batch_norm)).collect()
    });
    println!("{}", table(columns, rows));
    let note = "Loss and training accuracy are means over the epoch's batches, each before its step. Test accuracy is taken \
         after the epoch, by inference with running statistics.\n";
    println!("{}", prose(note));
    let lowest = history.plain.iter().chain(&history.batch_norm).map(|epoch| epoch.test.accuracy).fold(1.0, f64::min);
    let floor = (lowest * 10.0).floor() / 10.0;
    print_curve("plain", &history.plain, floor);
    print_curve("batch norm", &history.batch_norm, floor);
    let trained = |epochs: &[Epoch]| epochs.len().saturating_sub(history.resumed);
    let milliseconds =
        |seconds: f64, epochs: &[Epoch]| 1e3 * seconds / (trained(epochs) * history.steps_per_epoch).max(1) as f64;
    println!(
        "\ntime per step: plain {:.2} ms, batch norm {:.2} ms\n",
        milliseconds(history.plain_seconds, &history.plain),
        milliseconds(history.batch_norm_seconds, &history.batch_norm)
    );
}

/// Prints test accuracy over epochs as a row of blocks, from `floor` to 100 %.
fn print_curve(name: &str, epochs: &[Epoch], floor: f64) {
    let heights: Vec<f64> = epochs.iter().map(|epoch| (epoch.test.accuracy - floor) / (1.0 - floor)).collect();
    let last = epochs.last().map_or(0.0, |epoch| 100.0 * epoch.test.accuracy);
    println!("test accuracy  {name:<10} {last:6.2} %  {:.0} % |{}| 100 %", 100.0 * floor, blocks(&heights));
}

/// One block per value in [0, 1], the higher the larger.
fn blocks(values: &[f64]) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    // Casting saturates, so that a NaN becomes the lowest block.
    values.iter().map(|value| BLOCKS[((value * 8.0) as usize).min(7)]).collect()
}

/// Prints how the networks of a checkpoint, by name, did on so many test images.
pub fn print_evaluation(images: usize, networks: &[(&str, Figures)]) {
    let rows = networks.iter().map(|(name, figures)| {
        vec![
            (*name).to_owned(),
            format!("{:.4}", figures.loss),
            format!("{:.0} of {images}", figures.accuracy * images as f64),
            format!("{:.2}", 100.0 * figures.accuracy),
        ]
    });
    let columns = [text("network"), number("loss"), number("correct"), number("test %")];
    println!("{}", table(columns, rows));
}

/// Prints how the checked step compared. Returns whether all of it passed.
pub fn print_check(rows: &[QuantityRow], batch: usize) -> bool {
    let heading = format!("One training step with batch norm, {batch} images, each stage against float64 on the CPU:");
    println!("{}", prose(&heading));
    let cells = rows.iter().map(|row| {
        vec![
            row.quantity.to_owned(),
            if row.passed { "PASS" } else { "FAIL" }.to_owned(),
            format!("{:.3}", row.share),
            format!("{:.2e}", row.error),
            format!("{:.2e}", row.bound),
            row.values.to_string(),
        ]
    });
    let columns = [
        text("quantity"),
        text("verdict"),
        number("share").means("the largest error over its bound, at most 1 to pass"),
        number("error").means("that of the value with this share").extra(),
        number("its bound").extra(),
        number("values").extra(),
    ];
    println!("{}", table(columns, cells));
    let passed = rows.iter().all(|row| row.passed);
    println!("cross-check: {}", if passed { "PASS" } else { "FAIL" });
    passed
}

/// The figures for machines.
///
/// # Errors
/// [`TrainError::Json`].
pub fn json(
    mnist: &Mnist,
    settings: &TrainSettings,
    adapter_name: &str,
    history: &History,
    rows: &[QuantityRow],
) -> Result<Vec<u8>, TrainError> {
    let figures = serde_json::json!({
        "adapter": adapter_name,
        "data": { "source": mnist.source, "train": mnist.train.count(), "test": mnist.test.count() },
        "network": SIZES,
        "settings": settings,
        "history": history,
        "check": { "passed": rows.iter().all(|row| row.passed), "quantities": rows },
    });
    let mut bytes = serde_json::to_vec_pretty(&figures)?;
    bytes.push(b'\n');
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_their_range() {
        assert_eq!(blocks(&[0.0, 0.124, 0.5, 0.99, 1.0, f64::NAN]), "▁▁▅██▁");
    }
}
