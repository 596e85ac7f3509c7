//! `Tuning::from_json`: any text is a tuning or an error, a tuning survives being written, and plans by it are sound.

#![no_main]

use batchnorm_wgpu::{Capabilities, Choice, DType, Layout, Operation, Shape, Tuning, wgpu};
use batchnorm_wgpu_check::plan::Request;
use libfuzzer_sys::fuzz_target;

const SHAPES: [(&[usize], Layout); 4] = [
    (&[2, 3, 8, 8], Layout::ChannelsFirst),
    (&[4, 7, 7, 65], Layout::ChannelsLast),
    (&[32, 256, 14, 14], Layout::ChannelsFirst),
    (&[128, 64], Layout::ChannelsFirst),
];

fuzz_target!(|text: &str| {
    let Ok(tuning) = Tuning::from_json(text) else { return };
    // The fraction, which nothing goes by, may change in its last digit.
    let without_fraction = |mut tuning: Tuning| {
        tuning.points.iter_mut().for_each(|point| point.fraction_of_copy = None);
        tuning
    };
    let again = Tuning::from_json(&tuning.to_json()).unwrap();
    let tuning = without_fraction(tuning);
    assert_eq!(without_fraction(again), tuning);
    for (operation, (dims, layout)) in Operation::ALL.into_iter().flat_map(|one| SHAPES.map(|shape| (one, shape))) {
        let request = Request {
            operation,
            shape: Shape::new(dims, layout).unwrap(),
            dtype: DType::F32,
            capabilities: Capabilities { device_type: wgpu::DeviceType::Cpu, ..Capabilities::default_limits() },
            tuning: tuning.clone(),
            choice: Choice::default(),
        };
        if let Err(broken) = request.check() {
            panic!("{request:?}: {broken}");
        }
    }
});
