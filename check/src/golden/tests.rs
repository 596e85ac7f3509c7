use super::*;
use crate::data::Data;
use crate::judge::Expected;
use crate::matrix::part_limits;
use crate::run::Results;
use batchnorm_wgpu::host::{Gpu, adapters};
use batchnorm_wgpu::{Config, Kernels, Shape, wgpu};
use serde_json::{Value, json};

/// A small case with every tensor that there is: x is 4x3x2x2, channels first.
fn recipe() -> Recipe {
    let shape = Shape::new(&[4, 3, 2, 2], Layout::ChannelsFirst).unwrap();
    let mut recipe = Recipe::new(Operation::ForwardTraining, &shape);
    recipe.case.residual = true;
    recipe
}

fn good() -> Vec<u8> {
    recipe().golden().unwrap().to_bytes().unwrap()
}

/// A file of a header and what stands behind it.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// Header and data of the good file.
fn parts() -> (String, Vec<u8>) {
    let good = good();
    let length = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    (String::from_utf8(good[8..8 + length].to_vec()).unwrap(), good[8 + length..].to_vec())
}

fn refused(bytes: &[u8]) -> String {
    Golden::from_bytes(bytes).unwrap_err().to_string()
}

/// What is said of the good file with another header.
fn refused_with(change: impl Fn(&mut Value)) -> String {
    let (header, data) = parts();
    let mut header: Value = serde_json::from_str(&header).unwrap();
    change(&mut header);
    refused(&file(&header.to_string(), &data))
}

#[test]
fn the_set_survives_its_files() {
    let set = set();
    let names: std::collections::HashSet<String> = set.iter().map(Recipe::name).collect();
    assert_eq!(names.len(), set.len(), "names are files");
    for recipe in set {
        let golden = recipe.golden().unwrap();
        let bytes = golden.to_bytes().unwrap();
        let again = Golden::from_bytes(&bytes).unwrap();
        assert_eq!(bytes, again.to_bytes().unwrap(), "{}", recipe.name());
        assert!(again == golden || recipe.case.data == Data::OneNan, "{}", recipe.name());
        let other = Recipe { seed: 1, ..recipe.clone() }.golden().unwrap();
        assert_ne!(other.inputs.running.mean, golden.inputs.running.mean, "{}", recipe.name());
    }
}

#[test]
fn activations_survive_their_files() {
    for activation in Activation::ALL {
        for negative_slope in [0.01, -0.5] {
            let mut recipe = recipe();
            let config = Config { activation, negative_slope, ..recipe.case.config };
            recipe.case.config = config;
            let golden = recipe.golden().unwrap();
            let again = Golden::from_bytes(&golden.to_bytes().unwrap()).unwrap();
            // Where nothing is multiplied with a slope, files do not have it.
            let kept = if activation == Activation::LeakyRelu { negative_slope } else { 0.01 };
            let found = again.inputs.config;
            assert_eq!((found.activation, found.negative_slope), (activation, kept));
            let name = recipe.name();
            let wanted = match (activation, negative_slope) {
                (Activation::None, _) => "_add".into(),
                (Activation::LeakyRelu, -0.5) => "_add_leaky_relu_-0.5".into(),
                _ => format!("_add_{activation}"),
            };
            assert!(name.ends_with(&wanted), "{name}, {wanted}");
        }
    }
}

#[test]
fn names_say_what_is_not_as_usual() {
    assert_eq!(recipe().name(), "nchw_train_4x3x2x2_add");
    let shape = Shape::new(&[4, 5, 7, 6], Layout::ChannelsLast).unwrap();
    let mut recipe = Recipe::new(Operation::Inference, &shape);
    recipe.case.config.dtype = DType::F16;
    recipe.case.data = Data::Normal { mean: 1e3 };
    (recipe.case.beta, recipe.gradient) = (false, false);
    assert_eq!(recipe.name(), "nhwc_eval_normal_1e3_f16_weight_only_forward");
    let six = Shape::new(&[2, 3, 1, 1, 1, 2], Layout::ChannelsLast).unwrap();
    assert_eq!(Recipe::new(Operation::Inference, &six).name(), "n4dc_eval_2x3x1x1x1x2");
}

#[test]
fn a_recipe_that_is_no_case_is_refused() {
    let refused = |change: &dyn Fn(&mut Recipe)| {
        let mut recipe = recipe();
        change(&mut recipe);
        recipe.golden().and_then(|golden| golden.to_bytes()).unwrap_err().to_string()
    };
    let shape = |dims: &[usize]| Shape::new(dims, Layout::ChannelsFirst).unwrap();
    assert!(refused(&|recipe| recipe.case.shape = shape(&[1, 4])).contains("one value per channel"));
    assert!(refused(&|recipe| recipe.case.shape = shape(&[1 << 20, 1 << 20])).contains("elements"));
    assert!(refused(&|recipe| recipe.case.data = Data::Overflowing).contains("variance of channel 0"));
    assert!(refused(&|recipe| recipe.case.config.running = batchnorm_wgpu::RunningPolicy::pooled()).contains("pooled"));
}

/// Metadata that is wrong, and what is said of it.
const METADATA: [(&str, &str, &str); 23] = [
    ("format", "batchnorm-golden-2", "format: expected batchnorm-golden-1, got \"batchnorm-golden-2\""),
    ("mode", "test", "mode: expected train or eval, got \"test\""),
    ("layout", "nhwc", "layout: expected channels_first or channels_last"),
    ("activation", "gelu", "activation: expected none or relu or leaky_relu or relu6 or silu"),
    ("negative_slope", "inf", "negative_slope: expected a finite decimal number, got \"inf\""),
    ("negative_slope", "steep", "negative_slope: expected a finite decimal number"),
    ("negative_slope", "-1e39", "not supported: expected negative_slope to be a finite number that an f32 holds"),
    ("running_var", "Unbiased", "running_var: expected unbiased or biased"),
    ("eps", "tiny", "eps: expected a decimal number from 0"),
    ("eps", "NaN", "eps: expected a decimal number"),
    ("eps", "inf", "eps: expected a decimal number"),
    ("eps", "1e999", "eps: expected a decimal number"),
    ("eps", "-1e-5", "eps: expected a decimal number"),
    ("eps", "0", "not supported: expected eps to be positive"),
    ("eps", "1e-40", "not supported: expected eps"),
    ("momentum", "1.5", "momentum: expected a decimal number from 0 to 1.0, got \"1.5\""),
    ("momentum", "-0.1", "momentum: expected"),
    ("momentum", "None", "or cumulative, which is PyTorch's None"),
    ("momentum", "nan", "momentum: expected"),
    ("rtol", "NaN", "rtol: expected a decimal number"),
    ("rtol", "-1", "rtol: expected a decimal number"),
    ("atol", "inf", "atol: expected a decimal number"),
    ("atol", "", "atol: expected a decimal number"),
];

#[test]
fn wrong_metadata_is_refused() {
    for (key, value, said) in METADATA {
        let refused = refused_with(|header| header["__metadata__"][key] = value.into());
        assert!(refused.contains(said), "{key} {value}: {refused}");
    }
    for key in ["format", "mode"] {
        let remove = |header: &mut Value| drop(header["__metadata__"].as_object_mut().unwrap().remove(key));
        assert!(refused_with(remove).contains("no such metadata key"), "{key}");
    }
}

/// Changes a header.
type Change = fn(&mut Value);

/// Gives a tensor a shape and dtype that need as many bytes.
fn retyped(header: &mut Value, name: &str, dtype: &str, shape: Value) {
    header[name]["dtype"] = dtype.into();
    header[name]["shape"] = shape;
}

/// Takes a tensor's name away from it.
fn renamed(header: &mut Value, name: &str, other: &str) {
    let tensor = header.as_object_mut().unwrap().remove(name).unwrap();
    header[other] = tensor;
}

/// Headers that lie about the tensors, and what is said of them.
const LIES: [(Change, &str); 38] = [
    // Shapes of as many elements.
    (
        |h| retyped(h, "expected.y", "F64", json!([3, 4, 2, 2])),
        "expected.y: expected shape [4, 3, 2, 2], got [3, 4, 2, 2]",
    ),
    (|h| retyped(h, "expected.y", "F64", json!([48])), "expected.y: expected shape [4, 3, 2, 2], got [48]"),
    (|h| retyped(h, "expected.dx", "F64", json!([4, 12])), "expected.dx: expected shape"),
    (|h| retyped(h, "expected.dresidual", "F64", json!([1, 4, 3, 2, 2])), "expected.dresidual: expected shape"),
    (|h| retyped(h, "dy", "F32", json!([4, 3, 4])), "dy: expected shape [4, 3, 2, 2], got [4, 3, 4]"),
    (|h| retyped(h, "residual", "F32", json!([4, 3, 4, 1])), "residual: expected shape"),
    (|h| retyped(h, "x", "F32", json!([4, 2, 3, 2])), "expected shape"),
    (|h| retyped(h, "weight", "F32", json!([3, 1])), "weight: expected shape [3], got [3, 1]"),
    (|h| retyped(h, "expected.batch_mean", "F64", json!([1, 3])), "expected.batch_mean: expected shape [3]"),
    (
        |h| retyped(h, "expected.num_batches_tracked", "I64", json!([1, 1])),
        "expected.num_batches_tracked: expected shape []",
    ),
    (|h| retyped(h, "num_batches_tracked", "I64", json!([1, 1])), "num_batches_tracked: expected shape []"),
    // Shapes of no batch.
    (|h| retyped(h, "x", "F32", json!([48])), "rank 2 or more"),
    (|h| retyped(h, "x", "F64", json!([24])), "rank 2 or more"),
    // Dtypes of as many bytes.
    (|h| retyped(h, "x", "I32", json!([4, 3, 2, 2])), "x: expected F32, F16 or BF16, got I32"),
    (|h| retyped(h, "x", "F64", json!([2, 3, 2, 2])), "x: expected F32, F16 or BF16, got F64"),
    (|h| retyped(h, "x", "F16", json!([4, 3, 4, 2])), "expected shape [4, 3, 4, 2]"),
    (|h| retyped(h, "dy", "U32", json!([4, 3, 2, 2])), "dy: expected F32, got U32"),
    (|h| retyped(h, "bias", "I32", json!([3])), "bias: expected F32 or F16 or BF16, got I32"),
    (
        |h| retyped(h, "expected.y", "I64", json!([4, 3, 2, 2])),
        "expected.y: expected F32 or F64 or F16 or BF16, got I64",
    ),
    (|h| retyped(h, "expected.y", "C64", json!([4, 3, 2, 2])), "expected.y: expected F32 or F64"),
    (|h| retyped(h, "expected.y", "BOOL", json!([4, 3, 2, 16])), "expected.y: expected shape"),
    (|h| retyped(h, "expected.dbias", "U64", json!([3])), "expected.dbias: expected F32 or F64"),
    (|h| retyped(h, "num_batches_tracked", "F64", json!([])), "num_batches_tracked: expected a count, got 0.0000"),
    (|h| retyped(h, "num_batches_tracked", "C64", json!([])), "num_batches_tracked: expected I64 or I32"),
    (|h| retyped(h, "x", "F31", json!([4, 3, 2, 2])), "fault in its header: unknown variant `F31`"),
    // Names.
    (|h| renamed(h, "x", "X"), "x: expected a tensor, got none"),
    (|h| renamed(h, "dy", "other"), "expected an answer only with a tensor dy"),
    (|h| renamed(h, "residual", "other"), "expected.dresidual: expected an answer only with tensors dy and residual"),
    (|h| renamed(h, "expected.dbias", "expected.dbeta"), "expected.dbeta: expected one of expected.y"),
    (|h| h["__metadata__"]["mode"] = "eval".into(), "expected an answer only with mode train"),
    // Bytes.
    (|h| h["x"]["shape"] = json!([4, 3, 2, 200]), "fault in its header: invalid shape, data type, or offset"),
    (|h| h["x"]["shape"] = json!([1u64 << 63, 1u64 << 63]), "fault in its header: overflow"),
    (|h| h["x"]["shape"] = json!([-4, 3, 2, 2]), "fault in its header: invalid value: integer `-4`"),
    (|h| h["x"]["data_offsets"] = json!([0, 192]), "fault in its header: invalid offset for tensor"),
    (|h| h["x"]["data_offsets"] = json!([u64::MAX - 191, u64::MAX]), "fault in its header: invalid offset for tensor"),
    (
        |h| h["expected.more"] = json!({"dtype": "F64", "shape": [0], "data_offsets": [0, 0]}),
        "expected.more: expected one of",
    ),
    // JSON that is none of safetensors.
    (|h| h["__metadata__"]["eps"] = json!(1e-5), "fault in its header: invalid type: floating point"),
    (|h| *h = json!([1, 2]), "fault in its header: invalid type: sequence, expected an object"),
];

#[test]
fn headers_that_lie_are_refused() {
    for (i, (change, said)) in LIES.iter().enumerate() {
        let refused = refused_with(change);
        assert!(refused.contains(said), "{i}: expected {said:?}, got {refused:?}");
    }
}

#[test]
fn what_comes_twice_is_refused() {
    let (header, data) = parts();
    let x = header.find("\"x\":").unwrap();
    let tensor = &header[x..x + header[x..].find('}').unwrap() + 1];
    for (text, twice) in [
        ("{\"__metadata__\":{", "{\"__metadata__\":{\"mode\":\"eval\","),
        ("{\"__metadata__\":{", "{\"__metadata__\":{},\"__metadata__\":{"),
        ("{\"__metadata__\":{", &format!("{{{tensor},\"__metadata__\":{{")),
        ("\"dtype\":\"F32\"", "\"dtype\":\"BF16\",\"dtype\":\"F32\""),
    ] {
        let refused = refused(&file(&header.replacen(text, twice, 1), &data));
        assert!(refused.contains("comes twice"), "{twice}: {refused}");
    }
}

#[test]
fn offsets_that_add_up_to_more_than_there_is_are_refused() {
    // Eight tensors whose ends come close to the largest number.
    let size = (1u64 << 61) - 1;
    let tensor = |i: u64| json!({"dtype": "U8", "shape": [size], "data_offsets": [i * size, (i + 1) * size]});
    let header: serde_json::Map<String, Value> = (0..8).map(|i| (format!("x{i}"), tensor(i))).collect();
    let refused = refused(&file(&Value::from(header).to_string(), &[0; 64]));
    assert!(refused.contains("with 64 bytes of tensors where its header announces"), "{refused}");
}

#[test]
fn survives_damage_anywhere() {
    let good = good();
    for length in 0..good.len() {
        assert!(Golden::from_bytes(&good[..length]).is_err(), "{length}");
    }
    assert!(refused(&[&good[..], &[0]].concat()).contains("bytes of tensors where its header announces"));
    assert!(refused(&[]).contains("got one of 0 bytes"));
    for length in [good.len() as u64, LARGEST, 1 << 40, u64::MAX - 7, u64::MAX] {
        let huge = [&length.to_le_bytes(), &good[8..]].concat();
        assert!(refused(&huge).contains("less than its header announces"), "{length}");
    }
    let (header, data) = parts();
    // Every bit of the header, and some of the data.
    for i in 0..8 + header.len() + data.len().min(64) {
        for bit in 0..8 {
            let mut flipped = good.clone();
            flipped[i] ^= 1 << bit;
            // Either an error or a case; never a panic.
            let _ = Golden::from_bytes(&flipped);
        }
    }
}

/// The good file with another number of batches tracked.
fn tracked(count: i64) -> Result<Golden, Problem> {
    let (header, mut data) = parts();
    let header: Value = serde_json::from_str(&header).unwrap();
    let begin = header["num_batches_tracked"]["data_offsets"][0].as_u64().unwrap() as usize;
    data[begin..begin + 8].copy_from_slice(&count.to_le_bytes());
    Golden::from_bytes(&file(&header.to_string(), &data))
}

#[test]
fn batches_tracked_are_a_count_that_can_grow() {
    assert_eq!(tracked(u32::MAX as i64 - 1).unwrap().inputs.running.tracked, [u32::MAX - 1; 3]);
    assert!(tracked(-1).unwrap_err().to_string().contains("num_batches_tracked: expected a count, got -1"));
    for count in [u32::MAX as i64, 1 << 40, i64::MAX] {
        assert!(matches!(tracked(count), Err(Problem::Unsupported(_))), "{count}");
    }
}

#[test]
fn parameters_and_counts_are_read_from_any_type_that_widens() {
    let golden = recipe().golden().unwrap();
    for dtype in [Dtype::F16, Dtype::BF16] {
        let mut tensors: Vec<(String, Stored)> = golden.tensors();
        for (name, stored) in &mut tensors {
            *stored = match name.as_str() {
                "weight" | "bias" | "running_mean" | "running_var" => stored.clone().rounded(dtype).unwrap(),
                "num_batches_tracked" => Stored { dtype, dims: vec![1], values: stored.values.clone() },
                _ => stored.clone(),
            };
        }
        let entering = tensors.iter().map(|(name, stored)| stored.entering(name).unwrap()).collect();
        let metadata = golden.metadata().unwrap().into_iter().map(|(key, text)| (key.to_owned(), text)).collect();
        let mut bytes = Vec::new();
        crate::stored::write_safetensors(&mut bytes, &metadata, entering).unwrap();
        let read = Golden::from_bytes(&bytes).unwrap();
        let find = |name: &str| tensors.iter().find(|(one, _)| one == name).unwrap().1.values.clone();
        let widened: Vec<f64> = read.inputs.gamma.unwrap().into_iter().map(f64::from).collect();
        assert_eq!(widened, find("weight"));
        assert_eq!(f64::from(read.inputs.running.tracked[0]), find("num_batches_tracked")[0]);
    }
}

#[test]
fn files_that_cannot_be_cases_are_not_read() {
    let folder = std::env::temp_dir().join(format!("golden-test-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let said = |path: &std::path::Path| Golden::load(path).unwrap_err().to_string();
    assert!(said(&folder).contains("expected a regular file"));
    assert!(said(&folder.join("none")).contains("none: cannot be read"));
    // As long as it says, without a block on the disk.
    let sparse = folder.join("sparse");
    std::fs::File::create(&sparse).unwrap().set_len(1 << 40).unwrap();
    assert!(said(&sparse).contains("sparse: the file: expected at most 1073741824 bytes, got 1099511627776"));
    std::fs::remove_dir_all(folder).unwrap();
}

fn bounded(name: &'static str, want: Vec<f64>, tolerance: Vec<f64>) -> Expected {
    Expected { name, want, tolerance, instead: BTreeMap::new(), may_exceed: false }
}

/// The verdict of the good case on y, with another answer for its first elements, where its own are 1, 2, ...
fn verdict(tolerance: Option<Tolerance>, answer: &[f64], got: &[f32]) -> bool {
    let mut golden = recipe().golden().unwrap();
    let ordinary: Vec<f64> = (1..49).map(f64::from).collect();
    let values = [answer, &ordinary[answer.len()..]].concat();
    let dims = golden.inputs.shape.dims().to_vec();
    golden.answers.insert("y", Stored { dtype: Dtype::F64, dims, values });
    golden.tolerance = tolerance;
    let bound = bounded("y", vec![0.0; 48], vec![1e-3; 48]);
    let got = got.iter().copied().chain(ordinary[got.len()..].iter().map(|&value| value as f32)).collect();
    golden.expectation(bound).unwrap().judge(&Results { y: Some(got), ..Results::default() }).passed
}

#[test]
fn tolerances_are_those_of_the_format() {
    // The largest value wanted is 48.
    let absolute = Some(Tolerance { relative: 0.0, absolute: 0.25 / 48.0 });
    let relative = Some(Tolerance { relative: 0.125, absolute: 0.0 });
    let both = Some(Tolerance { relative: 0.125, absolute: 0.25 / 48.0 });
    let exact = Some(Tolerance { relative: 0.0, absolute: 0.0 });
    for (tolerance, answer, got, passed) in [
        (None, 1.0, 1.0005, true),
        (None, 1.0, 1.002, false),
        (absolute, 1.0, 1.25, true),
        (absolute, 1.0, 1.26, false),
        (relative, 2.0, 2.25, true),
        (relative, 2.0, 1.74, false),
        (both, 2.0, 2.5, true),
        (both, 2.0, 2.51, false),
        (exact, 1.0, 1.0, true),
        (exact, 1.0, 1.0000001, false),
    ] {
        assert_eq!(verdict(tolerance, &[answer], &[got]), passed, "{tolerance:?} {answer} {got}");
    }
}

#[test]
fn what_is_not_finite_must_come_as_it_is() {
    let (nan, infinity) = (f32::NAN, f32::INFINITY);
    let wide = Some(Tolerance { relative: 1.0, absolute: 1.0 });
    let exact = Some(Tolerance { relative: 0.0, absolute: 0.0 });
    for tolerance in [None, wide, exact] {
        for answer in [nan, infinity, -infinity] {
            for got in [nan, infinity, -infinity, 1.0] {
                let same = got == answer || (got.is_nan() && answer.is_nan());
                assert_eq!(verdict(tolerance, &[answer.into()], &[got]), same, "{tolerance:?} {answer} {got}");
            }
        }
        assert!(!verdict(tolerance, &[1.0], &[nan]) && !verdict(tolerance, &[1.0], &[infinity]));
    }
    // An infinity is no largest value that would excuse the others.
    let absolute = Some(Tolerance { relative: 0.0, absolute: 0.25 / 48.0 });
    for answer in [f64::NAN, f64::INFINITY] {
        assert!(verdict(absolute, &[answer, 2.0], &[answer as f32, 2.25]));
        assert!(!verdict(absolute, &[answer, 2.0], &[answer as f32, 2.26]));
    }
}

#[test]
fn an_answer_may_be_stored_coarsely() {
    for (dtype, step) in [(Dtype::F32, 2f64.powi(-24)), (Dtype::F16, 2f64.powi(-11)), (Dtype::BF16, 2f64.powi(-8))] {
        let mut golden = recipe().golden().unwrap();
        golden.answers.get_mut("dbias").unwrap().dtype = dtype;
        golden.answers.get_mut("dbias").unwrap().values = vec![4.0, -1.0, 0.0];
        let bound = || bounded("dbias", vec![0.0; 3], vec![0.5; 3]);
        let tolerance = golden.expectation(bound()).unwrap().tolerance;
        assert_eq!(tolerance[..2], [0.5 + 4.0 * step, 0.5 + step]);
        golden.tolerance = Some(Tolerance { relative: 0.5, absolute: 0.0 });
        assert_eq!(golden.expectation(bound()).unwrap().tolerance, [2.0, 0.5, 0.0]);
    }
}

#[test]
fn an_answer_beyond_f16_is_infinite_there() {
    let mut golden = recipe().golden().unwrap();
    golden.inputs.config.dtype = DType::F16;
    golden.answers.get_mut("y").unwrap().values[..2].copy_from_slice(&[7e4, 6e4]);
    let bound = bounded("y", vec![0.0; 48], vec![0.0; 48]);
    assert_eq!(golden.expectation(bound).unwrap().want[..2], [f64::INFINITY, 6e4]);
}

/// The first adapter, where there is one.
/// The first adapter's device. None where there is no adapter, and none is required.
fn gpu() -> Option<Gpu> {
    let open = |adapter: wgpu::Adapter| {
        Gpu::from_adapter(&adapter, adapter.limits(), adapter.features() & batchnorm_wgpu::USEFUL_FEATURES).unwrap()
    };
    let gpu = adapters().into_iter().next().map(open);
    let required = std::env::var("BATCHNORM_REQUIRE_ADAPTERS").unwrap_or_default();
    assert!(gpu.is_some() || required.is_empty(), "no adapter, and {required} required; scripts/setup installs them");
    gpu
}

#[test]
fn every_answer_has_a_verdict_and_a_wrong_one_fails() {
    let Some(gpu) = gpu() else { return };
    let kernels = Kernels::new(&gpu.device);
    for mode in [Operation::ForwardTraining, Operation::Inference] {
        let mut recipe = recipe();
        recipe.case.operation = mode;
        let golden = recipe.golden().unwrap();
        let outcome = golden.run(&kernels, &gpu.queue);
        assert!(matches!(outcome, GoldenOutcome::Passed(_)), "{:?}", outcome.reason());
        assert_eq!(outcome.judged().len(), golden.answers.len());
        for (name, answer) in &golden.answers {
            let mut wrong = golden.clone();
            let last = answer.values.len() - 1;
            wrong.answers.get_mut(name).unwrap().values[last] += 1.0;
            let outcome = wrong.run(&kernels, &gpu.queue);
            let GoldenOutcome::Mismatch(judged) = &outcome else { panic!("{name}: {:?}", outcome.reason()) };
            let failed: Vec<&Judged> = judged.iter().filter(|judged| !judged.verdict.passed).collect();
            assert_eq!((failed.len(), failed[0].verdict.name), (1, *name));
            let position = match answer.dims.len() {
                4 => vec![3, 2, 1, 1],
                1 => vec![2],
                _ => vec![0],
            };
            assert_eq!(failed[0].position, position, "{name}");
        }
    }
}

#[test]
fn what_the_device_cannot_hold_is_unsupported() {
    let Some(gpu) = gpu() else { return };
    let small = Gpu::from_adapter(&gpu.adapter, part_limits(gpu.adapter.limits()), gpu.device.features()).unwrap();
    let shape = Shape::new(&[2, 3, 400], Layout::ChannelsFirst).unwrap();
    let golden = Recipe::new(Operation::ForwardTraining, &shape).golden().unwrap();
    let outcome = golden.run(&Kernels::new(&small.device), &small.queue);
    assert!(matches!(&outcome, GoldenOutcome::Unsupported(_)), "{:?}", outcome.reason());
    assert!(outcome.reason().unwrap().contains("max_storage_buffer_binding_size allows"), "{:?}", outcome.reason());
}

#[test]
fn what_has_no_bound_needs_a_tolerance() {
    let Some(gpu) = gpu() else { return };
    let kernels = Kernels::new(&gpu.device);
    let mut golden = recipe().golden().unwrap();
    golden.mode = Operation::Inference;
    golden.answers.retain(|name, _| *name == "y");
    golden.inputs.x[0] = 1e38;
    golden.inputs.running.var = vec![1e-10; 3];
    let reason = golden.run(&kernels, &gpu.queue).reason().unwrap();
    assert!(reason.contains("1 of 48 values of y") && reason.contains("rtol"), "{reason}");
}
