//! The networks in a `.safetensors` file: under PyTorch's names, and in the metadata what a run needs to go on.
//!
//! One file holds both networks and the training state, so that no crash leaves parts of different moments. Behind the
//! prefix of its network, the first linear layer has `fc1.weight` [outputs, inputs] and `fc1.bias`, the batch norm after it
//! `bn1.weight` and the library's other names. A linear layer before batch norm has no bias.

use super::{
    data::{Images, Mnist},
    error::{Difference, TrainError},
    history::{Epoch, Figures, TrainSettings},
    network::Snapshot,
    parameters::{Parameters, SIZES},
};
use crate::output::Claim;
use batchnorm_wgpu::{
    Error, RunningStatistics,
    checkpoint::{Contents, LayerState, Parts, Reader, Writer},
};
use flate2::Crc;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, path::Path};

/// Where the training state lies in the metadata. It is the only text there: the order of several would not repeat.
const TRAINING: &str = "batchnorm-train-1";

/// A network's place in the file.
#[derive(Clone, Copy, Debug)]
pub struct SavedNetwork {
    /// What people call the network.
    pub name: &'static str,
    prefix: &'static str,
    batch_norm: bool,
}

/// The networks of a file.
const PLACES: [SavedNetwork; 2] = [
    SavedNetwork { name: "plain", prefix: "plain.", batch_norm: false },
    SavedNetwork { name: "batch norm", prefix: "batch_norm.", batch_norm: true },
];

impl SavedNetwork {
    /// The prefix of layer `layer` of a kind, `fc` or `bn`.
    fn layer(&self, kind: &str, layer: usize) -> String {
        format!("{}{kind}{}.", self.prefix, layer + 1)
    }
}

/// What a run goes on from.
#[derive(Debug)]
pub struct Checkpoint {
    /// The network without batch norm, and the one with it.
    pub snapshots: [Snapshot; 2],
    /// The epochs so far of either.
    pub epochs: [Vec<Epoch>; 2],
}

/// What a run needs to go on, beside the tensors.
#[derive(Debug, Serialize, Deserialize)]
struct TrainingState {
    settings: BTreeMap<String, String>,
    /// The epochs of both networks, in the order of `PLACES`.
    epochs: [Vec<EpochBits>; 2],
    /// The running statistics as they lie in their buffers: PyTorch has no names for all of it.
    running: [Vec<Vec<u32>>; 2],
}

/// Figures as bits: JSON knows no NaN, and its decimals may be read one bit off.
type EpochBits = [u64; 4];

fn to_bits(Epoch { train, test }: &Epoch) -> EpochBits {
    [train.loss, train.accuracy, test.loss, test.accuracy].map(f64::to_bits)
}

fn from_bits(bits: &EpochBits) -> Epoch {
    let [loss, accuracy, test_loss, test_accuracy] = bits.map(f64::from_bits);
    Epoch { train: Figures { loss, accuracy }, test: Figures { loss: test_loss, accuracy: test_accuracy } }
}

/// Writes both networks and the training state.
///
/// # Errors
/// [`TrainError`] when the file cannot be written.
pub fn save(file: &Claim, checkpoint: &Checkpoint, settings: &TrainSettings, mnist: &Mnist) -> Result<(), TrainError> {
    let training = TrainingState {
        settings: described(settings, mnist),
        epochs: checkpoint.epochs.each_ref().map(|epochs| epochs.iter().map(to_bits).collect()),
        running: [running_words(&checkpoint.snapshots[0])?, running_words(&checkpoint.snapshots[1])?],
    };
    let mut writer = Writer::default();
    for (place, snapshot) in PLACES.iter().zip(&checkpoint.snapshots) {
        put(&mut writer, place, snapshot)?;
    }
    writer.metadata(TRAINING, serde_json::to_string(&training)?);
    Ok(file.write(&writer.serialize()?)?)
}

/// Reads what [`save`] wrote, for a run of the same settings over the same data.
///
/// # Errors
/// [`TrainError`] when the file cannot be read, is damaged, holds no training state, or that of another run.
pub fn resume(file: &Path, settings: &TrainSettings, mnist: &Mnist) -> Result<Checkpoint, TrainError> {
    let bytes = read(file)?;
    let no_training = |found: String| TrainError::Training { file: file.into(), found };
    let reader = Reader::new(&bytes).map_err(of(file))?;
    let training = reader.metadata(TRAINING).ok_or_else(|| no_training("none".into()))?;
    let training: TrainingState = serde_json::from_str(training).map_err(|error| no_training(error.to_string()))?;
    let differences = differences(&training.settings, &described(settings, mnist));
    if !differences.is_empty() {
        return Err(TrainError::Settings { file: file.into(), differences });
    }
    let [plain, batch_norm] = training.epochs.map(|epochs| epochs.iter().map(from_bits).collect::<Vec<_>>());
    if plain.len() != batch_norm.len() || plain.len() > settings.epochs as usize {
        let (done, other, all) = (plain.len(), batch_norm.len(), settings.epochs);
        return Err(no_training(format!("{done} and {other} of {all} epochs")));
    }
    let mut snapshots = take_all(reader, &PLACES, Parts::default()).map_err(of(file))?;
    for (snapshot, words) in snapshots.iter_mut().zip(&training.running) {
        let exact = exact_running(&snapshot.running, words);
        snapshot.running = exact.ok_or_else(|| no_training("running statistics of other tensors".into()))?;
    }
    let snapshots = <[Snapshot; 2]>::try_from(snapshots).map_err(|_| no_training("that of one network".into()))?;
    Ok(Checkpoint { snapshots, epochs: [plain, batch_norm] })
}

/// Reads the networks of a file, whoever wrote it: one of them, or both.
///
/// # Errors
/// [`TrainError`] when the file cannot be read, is damaged, or holds other tensors.
pub fn load(file: &Path) -> Result<Vec<(SavedNetwork, Snapshot)>, TrainError> {
    let bytes = read(file)?;
    let reader = Reader::new(&bytes).map_err(of(file))?;
    let present = |place: &SavedNetwork| reader.remaining(place.prefix).next().is_some();
    let places: Vec<SavedNetwork> = PLACES.into_iter().filter(present).collect();
    // A file with neither lacks both.
    let places = if places.is_empty() { PLACES.to_vec() } else { places };
    // Evaluation needs no count, and PyTorch wrote none before 0.4.1.
    let parts = Parts { tracked: false, ..Parts::default() };
    let snapshots = take_all(reader, &places, parts).map_err(of(file))?;
    let networks: Vec<_> = places.into_iter().zip(snapshots).collect();
    let unusable = |(place, snapshot): &(SavedNetwork, Snapshot)| {
        let of_layer = |(layer, running): (usize, &RunningStatistics)| {
            let (name, channel, value) = running.first_unusable()?;
            Some(TrainError::Statistics { file: file.into(), name: place.layer("bn", layer) + name, channel, value })
        };
        snapshot.running.iter().enumerate().find_map(of_layer)
    };
    networks.iter().find_map(unusable).map_or(Ok(networks), Err)
}

fn read(file: &Path) -> Result<Vec<u8>, TrainError> {
    fs::read(file).map_err(|source| TrainError::Read { file: file.into(), source })
}

/// Names the file in an error of the library.
fn of<E: Into<Error>>(file: &Path) -> impl Fn(E) -> TrainError {
    move |error| TrainError::Checkpoint { file: file.into(), source: error.into() }
}

/// What the course of training depends on, by option.
fn described(settings: &TrainSettings, mnist: &Mnist) -> BTreeMap<String, String> {
    let mut sum = Crc::new();
    for Images { pixels, labels } in [&mnist.train, &mnist.test] {
        sum.update(pixels);
        sum.update(labels);
    }
    let (train, test, sum) = (mnist.train.count(), mnist.test.count(), sum.sum());
    let options = [
        ("--epochs", settings.epochs.to_string()),
        ("--batch", settings.batch.to_string()),
        ("--learning-rate", settings.rate.to_string()),
        ("--seed", settings.seed.to_string()),
        ("--data", format!("{train} training and {test} test images of CRC-32 {sum:08x}")),
    ];
    options.into_iter().map(|(option, value)| (option.to_owned(), value)).collect()
}

fn differences(saved: &BTreeMap<String, String>, asked: &BTreeMap<String, String>) -> Vec<Difference> {
    let difference = |(option, asked): (&String, &String)| {
        let saved = saved.get(option).map_or("not saved", String::as_str);
        let (option, saved, asked) = (option.clone(), saved.to_owned(), asked.clone());
        (saved != asked).then_some(Difference { option, saved, asked })
    };
    asked.iter().filter_map(difference).collect()
}

fn running_words(snapshot: &Snapshot) -> Result<Vec<Vec<u32>>, Error> {
    snapshot.running.iter().map(|running| Ok(bytemuck::pod_collect_to_vec(&running.to_bytes()?))).collect()
}

/// The exact running statistics, if `words` are those and belong to the tensors that were read.
fn exact_running(read: &[RunningStatistics], words: &[Vec<u32>]) -> Option<Vec<RunningStatistics>> {
    let exact: Result<Vec<_>, _> =
        words.iter().map(|words| RunningStatistics::from_bytes(bytemuck::cast_slice(words))).collect();
    let exact = exact.ok()?;
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    let named = |running: &RunningStatistics| (bits(&running.mean), bits(&running.var), running.tracked.clone());
    read.iter().map(named).eq(exact.iter().map(named)).then_some(exact)
}

fn put(file: &mut Writer, place: &SavedNetwork, snapshot: &Snapshot) -> Result<(), Error> {
    for (layer, slices) in Parameters::new(place.batch_norm).layers.iter().enumerate() {
        let (inputs, outputs) = (SIZES[layer], SIZES[layer + 1]);
        let (linear, weights) = (place.layer("fc", layer), &snapshot.values[slices.weights.clone()]);
        file.tensor(&format!("{linear}weight"), &[outputs, inputs], &transposed(weights, outputs))?;
        let shift = &snapshot.values[slices.shift.clone()];
        let Some(scale) = &slices.scale else {
            file.tensor(&format!("{linear}bias"), &[outputs], shift)?;
            continue;
        };
        let state = LayerState {
            gamma: Some(snapshot.values[scale.clone()].to_vec()),
            beta: Some(shift.to_vec()),
            running: snapshot.running.get(layer).cloned(),
        };
        file.layer(&place.layer("bn", layer), &state)?;
    }
    Ok(())
}

/// The networks of several places, which must be all that there is. An error lists what is wrong with any of them.
fn take_all(mut file: Reader<'_>, places: &[SavedNetwork], parts: Parts) -> Result<Vec<Snapshot>, Contents> {
    let mut faults = Contents::default();
    let snapshots = places.iter().filter_map(|place| faults.gather(take(&mut file, place, parts))).collect();
    faults.gather(file.finish());
    faults.into_result().map(|()| snapshots)
}

fn take(file: &mut Reader<'_>, place: &SavedNetwork, parts: Parts) -> Result<Snapshot, Contents> {
    let parameters = Parameters::new(place.batch_norm);
    let mut faults = Contents::default();
    let (mut values, mut running) = (vec![0.0; parameters.count], Vec::new());
    for (layer, slices) in parameters.layers.iter().enumerate() {
        let (inputs, outputs) = (SIZES[layer], SIZES[layer + 1]);
        let linear = place.layer("fc", layer);
        if let Some(weights) = faults.gather(file.tensor(&format!("{linear}weight"), &[outputs, inputs])) {
            values[slices.weights.clone()].copy_from_slice(&transposed(&weights, inputs));
        }
        let (shift, scale) = match slices.scale {
            None => (faults.gather(file.tensor(&format!("{linear}bias"), &[outputs])), None),
            Some(_) => {
                let state = faults.gather(file.layer(&place.layer("bn", layer), outputs, parts));
                let LayerState { gamma, beta, running: statistics } = state.unwrap_or_default();
                running.extend(statistics);
                (beta, gamma)
            }
        };
        for (range, taken) in [(Some(&slices.shift), shift), (slices.scale.as_ref(), scale)] {
            if let Some((range, taken)) = range.zip(taken) {
                values[range.clone()].copy_from_slice(&taken);
            }
        }
    }
    faults.into_result().map(|()| Snapshot { values, running })
}

/// The transpose of a matrix with `columns` columns, row by row: PyTorch keeps weights [outputs, inputs].
fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| values.iter().skip(column).step_by(columns).copied()).collect()
}
