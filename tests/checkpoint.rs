//! Checkpoints: PyTorch's names, everything that is wrong with a file in one error, and files that lie.

use batchnorm_wgpu::checkpoint::{Contents, Header, LayerState, Parts, Reader, Writer, WrongTensor};
use batchnorm_wgpu::host::{Gpu, HostBatchNorm};
use batchnorm_wgpu::{Config, Error, Layout, RunningStatistics};
use ndarray::Array2;
use std::path::Path;

/// A layer of three channels with values that a careless conversion would change.
fn layer() -> LayerState {
    LayerState {
        gamma: Some(vec![-0.0, f32::MIN_POSITIVE / 4.0, 0.1]),
        beta: Some(vec![f32::INFINITY, f32::MAX, -1.5]),
        running: Some(RunningStatistics::from_mean_var(&[0.1, -2.0, 3e20], &[1.0, 0.0, 7.5], u32::MAX).unwrap()),
    }
}

/// A file with the given header and the given bytes behind it.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// A file with one tensor.
fn one(name: &str, dtype: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let length = data.len();
    file(&format!(r#"{{"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{length}]}}}}"#), data)
}

fn network() -> Vec<u8> {
    let mut writer = Writer::default();
    writer.layer("layer1.0.bn1.", &layer()).unwrap();
    writer.layer("layer1.0.bn10.", &LayerState { gamma: None, beta: None, ..layer() }).unwrap();
    writer.layer("bn.", &LayerState { running: None, ..layer() }).unwrap();
    writer.tensor("fc.weight", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    writer.metadata("note", "kept");
    writer.serialize().unwrap()
}

#[test]
fn layers_of_a_network_come_back() {
    let bytes = network();
    let mut reader = Reader::new(&bytes).unwrap();
    assert_eq!(reader.metadata("note"), Some("kept"));
    assert_eq!(reader.metadata("other"), None);
    let all = Parts::default();
    let bare = Parts { gamma: false, beta: false, ..all };
    let untracked = Parts { running: false, ..all };
    assert_eq!(reader.layer("layer1.0.bn10.", 3, bare).unwrap(), LayerState { gamma: None, beta: None, ..layer() });
    assert_eq!(reader.layer("layer1.0.bn1.", 3, all).unwrap(), layer());
    assert_eq!(reader.layer("bn.", 3, untracked).unwrap(), LayerState { running: None, ..layer() });
    assert_eq!(reader.remaining("").collect::<Vec<_>>(), ["fc.weight"]);
    assert_eq!(reader.tensor("fc.weight", &[2, 3]).unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    reader.finish().unwrap();
    let alone = {
        let mut writer = Writer::default();
        writer.layer("", &layer()).unwrap();
        writer.serialize().unwrap()
    };
    assert_eq!(Reader::new(&alone).unwrap().layer("", 3, all).unwrap(), layer());
}

#[test]
fn signs_subnormals_and_nans_keep_their_bits() {
    let values = [f32::from_bits(0x7fc0_1234), f32::from_bits(0xff80_0001), -0.0, f32::from_bits(1)];
    let mut writer = Writer::default();
    writer.tensor("t", &[4], &values).unwrap();
    let bytes = writer.serialize().unwrap();
    let read = Reader::new(&bytes).unwrap().tensor("t", &[4]).unwrap();
    assert_eq!(read.iter().map(|value| value.to_bits()).collect::<Vec<_>>(), values.map(f32::to_bits));
}

/// What `tests/checkpoint/make.py` wrote with PyTorch.
#[test]
fn a_file_of_pytorch_is_read_and_written_alike() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checkpoint/pytorch.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let mut reader = Reader::new(&bytes).unwrap();
    let weight = reader.tensor("layer1.0.conv1.weight", &[3, 2, 1, 1]).unwrap();
    assert_eq!(weight, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let layer = reader.layer("layer1.0.bn1.", 3, Parts::default()).unwrap();
    let (mean, var) = ([0.69, 3.45, 6.21], [1.79, 25.31, 80.19]);
    let expected = LayerState {
        gamma: Some(vec![1.0, -0.5, 2.0]),
        beta: Some(vec![0.0, 0.25, -3.0]),
        running: Some(RunningStatistics::from_mean_var(&mean, &var, 2).unwrap()),
    };
    assert_eq!(layer, expected);
    reader.finish().unwrap();
    let mut writer = Writer::default();
    writer.layer("layer1.0.bn1.", &layer).unwrap();
    writer.tensor("layer1.0.conv1.weight", &[3, 2, 1, 1], &weight).unwrap();
    assert_eq!(writer.serialize().unwrap(), bytes);
}

#[test]
fn one_error_lists_everything() {
    let mut writer = Writer::default();
    writer.tensor("bn1.bias", &[2], &[0.0; 2]).unwrap();
    writer.tensor("bn1.running_mean", &[1, 3], &[0.0; 3]).unwrap();
    writer.tensor("bn1.num_batches_tracked", &[], &[1.5]).unwrap();
    writer.tensor("bn1.scale", &[3], &[0.0; 3]).unwrap();
    writer.tensor("bn2.weight", &[3], &[0.0; 3]).unwrap();
    let bytes = writer.serialize().unwrap();
    let mut reader = Reader::new(&bytes).unwrap();
    let error = reader.layer("bn1.", 3, Parts::default()).unwrap_err();
    let wrong = |name: &str, expected: &str, actual: &str| WrongTensor {
        name: name.into(),
        expected: expected.into(),
        actual: actual.into(),
        hint: None,
    };
    let expected = Contents {
        missing: vec!["bn1.weight".into(), "bn1.running_var".into()],
        unexpected: vec!["bn1.scale".into()],
        wrong: vec![
            wrong("bn1.bias", "F32, F16 or BF16 of shape [3]", "F32 of shape [2]"),
            wrong("bn1.running_mean", "F32, F16 or BF16 of shape [3]", "F32 of shape [1, 3]"),
            wrong("bn1.num_batches_tracked", "a whole number from 0 to 4294967295", "1.5"),
        ],
    };
    assert_eq!(error, expected);
    assert_eq!(
        Error::from(error).to_string(),
        "the checkpoint holds other tensors than expected; missing: bn1.weight, bn1.running_var; unexpected: bn1.scale; \
         wrong: bn1.bias, expected F32, F16 or BF16 of shape [3], got F32 of shape [2]; \
         bn1.running_mean, expected F32, F16 or BF16 of shape [3], got F32 of shape [1, 3]; \
         bn1.num_batches_tracked, expected a whole number from 0 to 4294967295, got 1.5; \
         check the prefix, the number of channels, and whether the file is of this network"
    );
    // What was told is not told again, what nobody took is.
    assert_eq!(reader.finish().unwrap_err().unexpected, ["bn2.weight"]);
}

#[test]
fn the_advice_is_what_helps_and_what_is_known_comes_first() {
    const CONVERT: &str = "convert F64 to F32";
    const LOOK: &str = "check the prefix";
    let advice = |contents: &Contents| {
        let said = contents.to_string();
        let mut found: Vec<_> = [CONVERT, LOOK].into_iter().filter_map(|hint| Some((said.find(hint)?, hint))).collect();
        found.sort_unstable();
        found.into_iter().map(|(_, hint)| hint).collect::<Vec<_>>()
    };
    let missing = Contents { missing: vec!["bn1.weight".into()], ..Contents::default() };
    let unexpected = Contents { unexpected: vec!["bn2.weight".into()], ..Contents::default() };
    let wide = Reader::new(&one("t", "F64", "[1]", &[0; 8])).unwrap().tensor("t", &[1]).unwrap_err();
    assert_eq!(advice(&missing), [LOOK]);
    assert_eq!(advice(&unexpected), [LOOK]);
    assert_eq!(advice(&wide), [CONVERT]);
    for other in [missing, unexpected] {
        let mut all = wide.clone();
        assert_eq!(all.gather(Err::<(), _>(other)), None);
        assert_eq!(advice(&all), [CONVERT, LOOK]);
    }
}

#[test]
fn errors_of_several_layers_become_one() {
    let bytes = network();
    let mut reader = Reader::new(&bytes).unwrap();
    let mut faults = Contents::default();
    assert_eq!(faults.gather(reader.layer("layer1.0.bn1.", 3, Parts::default())), Some(layer()));
    assert_eq!(faults.gather(reader.layer("bn.", 3, Parts::default())), None);
    assert_eq!(faults.gather(reader.layer("bn9.", 3, Parts { running: false, ..Parts::default() })), None);
    assert_eq!(faults.gather(reader.tensor("fc.weight", &[3, 2])), None);
    assert_eq!(faults.gather(reader.finish()), None);
    let error = faults.into_result().unwrap_err();
    let names = ["bn.running_mean", "bn.running_var", "bn.num_batches_tracked", "bn9.weight", "bn9.bias"];
    assert_eq!(error.missing, names);
    assert_eq!(error.wrong.len(), 1);
    assert_eq!(error.unexpected.len(), 3, "{error}");
}

#[test]
fn narrow_types_are_widened_and_wide_ones_refused() {
    let halves = [0x3c00u16, 0x0001, 0xfc00].map(u16::to_le_bytes).concat();
    let read = |dtype, data: &[u8]| Reader::new(&one("t", dtype, "[3]", data)).unwrap().tensor("t", &[3]);
    assert_eq!(read("F16", &halves).unwrap(), [1.0, 2f32.powi(-24), f32::NEG_INFINITY]);
    let brains = [0x3f80u16, 0x0001, 0xff80].map(u16::to_le_bytes).concat();
    assert_eq!(read("BF16", &brains).unwrap(), [1.0, f32::from_bits(1 << 16), f32::NEG_INFINITY]);
    for (dtype, bytes) in [("F64", 24), ("I32", 12), ("BOOL", 3)] {
        let error = read(dtype, &vec![0; bytes]).unwrap_err();
        assert_eq!(error.wrong[0].actual, format!("{dtype} of shape [3]"));
        let said = error.to_string();
        assert_eq!(
            (said.contains("convert F64 to F32"), said.contains("check the prefix")),
            (dtype == "F64", dtype != "F64")
        );
    }
}

#[test]
fn a_prefix_needs_no_dot() {
    let bytes = |prefix: &str| {
        let mut writer = Writer::default();
        writer.layer(prefix, &layer()).unwrap();
        writer.serialize().unwrap()
    };
    for (prefix, name) in [("bn1", "bn1.weight"), ("bn1.", "bn1.weight"), ("", "weight"), ("bn_", "bn_weight")] {
        let bytes = bytes(prefix);
        assert!(Reader::new(&bytes).unwrap().remaining("").any(|one| one == name), "{prefix}");
        assert_eq!(Reader::new(&bytes).unwrap().layer(prefix, 3, Parts::default()).unwrap(), layer(), "{prefix}");
    }
    assert_eq!(bytes("layer1.0.bn1"), bytes("layer1.0.bn1."));
    // What lies under another layer's name is not this one's.
    let mut writer = Writer::default();
    writer.layer("bn1", &layer()).unwrap();
    writer.layer("bn10", &layer()).unwrap();
    let bytes = writer.serialize().unwrap();
    assert_eq!(Reader::new(&bytes).unwrap().layer("bn1", 3, Parts::default()).unwrap(), layer());
}

#[test]
fn names_of_other_frameworks_are_read() {
    let write = |names: [&str; 4]| {
        let mut writer = Writer::default();
        for (name, value) in names.iter().zip([1.0, 2.0, 3.0, 4.0]) {
            writer.tensor(name, &[1], &[value]).unwrap();
        }
        writer.serialize().unwrap()
    };
    let expected = LayerState {
        gamma: Some(vec![1.0]),
        beta: Some(vec![2.0]),
        running: Some(RunningStatistics::from_mean_var(&[3.0], &[4.0], 0).unwrap()),
    };
    let parts = Parts { tracked: false, ..Parts::default() };
    for (prefix, names) in [
        ("bn", ["bn.gamma", "bn.beta", "bn.running_mean", "bn.running_var"]),
        ("bn_", ["bn_gamma", "bn_beta", "bn_running_mean", "bn_running_var"]),
        ("bn/", ["bn/gamma", "bn/beta", "bn/moving_mean", "bn/moving_variance"]),
    ] {
        let bytes = write(names);
        let mut reader = Reader::new(&bytes).unwrap();
        assert_eq!(reader.layer(prefix, 1, parts).unwrap(), expected);
        reader.finish().unwrap();
    }
    // With both, which one is meant is not for the reader to say.
    let bytes = write(["weight", "gamma", "running_mean", "running_var"]);
    let parts = Parts { beta: false, ..parts };
    assert_eq!(Reader::new(&bytes).unwrap().layer("", 1, parts).unwrap_err().unexpected, ["gamma"]);
}

#[test]
fn files_of_other_kinds_and_names_twice_are_refused() {
    let said = |bytes: &[u8]| Reader::new(bytes).unwrap_err().to_string();
    let lfs = said(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 46830571\n");
    assert!(lfs.contains("a Git LFS pointer") && lfs.contains("git lfs pull"), "{lfs}");
    let zip = said(&[b"PK\x03\x04", &[0; 22][..], &[16, 0, 0, 0], b"archive/data.pkl", &[0; 100]].concat());
    assert!(zip.contains("a PyTorch file") && zip.contains("save_file"), "{zip}");
    let tensor = |start: u64| format!(r#""t":{{"dtype":"F32","shape":[1],"data_offsets":[{start},{}]}}"#, start + 4);
    let twice = said(&file(&format!("{{{},{}}}", tensor(0), tensor(0)), &[0; 4]));
    assert!(twice.contains("\"t\" comes twice"), "{twice}");
}

#[test]
fn batches_tracked_are_a_count() {
    let layer = |bytes: &[u8], tracked| {
        let parts = Parts { gamma: false, beta: false, tracked, ..Parts::default() };
        Reader::new(bytes).unwrap().layer("", 1, parts).map(|layer| layer.running.unwrap().tracked)
    };
    let count = |dtype: &str, shape: &str, data: &[u8]| {
        let end = 8 + data.len();
        let header = format!(
            r#"{{"running_mean":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}},
                "running_var":{{"dtype":"F32","shape":[1],"data_offsets":[4,8]}},
                "num_batches_tracked":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[8,{end}]}}}}"#
        );
        file(&header, &[&[0; 8], data].concat())
    };
    for tracked in [true, false] {
        let good = count("I64", "[]", &i64::from(u32::MAX).to_le_bytes());
        assert_eq!(layer(&good, tracked).unwrap(), [u32::MAX]);
        for bad in [-1, i64::from(u32::MAX) + 1, i64::MIN] {
            let error = layer(&count("I64", "[]", &bad.to_le_bytes()), tracked).unwrap_err();
            let expected = "a whole number from 0 to 4294967295";
            assert_eq!((&*error.wrong[0].expected, &error.wrong[0].actual), (expected, &(bad as f64).to_string()));
        }
        // As exporters and converters of whole files leave it.
        for (dtype, bytes) in [
            ("I64", &7i64.to_le_bytes() as &[u8]),
            ("U64", &7u64.to_le_bytes()),
            ("I32", &7i32.to_le_bytes()),
            ("U32", &7u32.to_le_bytes()),
            ("F32", &7f32.to_le_bytes()),
            ("F64", &7f64.to_le_bytes()),
            ("F16", &[0x00, 0x47]),
            ("BF16", &[0xe0, 0x40]),
        ] {
            for shape in ["[]", "[1]"] {
                assert_eq!(layer(&count(dtype, shape, bytes), tracked).unwrap(), [7], "{dtype} {shape}");
            }
        }
        for (dtype, shape, bytes) in [
            ("I64", "[0]", &[] as &[u8]),
            ("I64", "[1,1]", &[0; 8]),
            ("BOOL", "[]", &[1]),
            ("F32", "[]", &7.5f32.to_le_bytes()),
            ("F32", "[]", &f32::NAN.to_le_bytes()),
            ("F64", "[1]", &f64::INFINITY.to_le_bytes()),
        ] {
            assert_eq!(layer(&count(dtype, shape, bytes), tracked).unwrap_err().wrong.len(), 1, "{dtype} {shape}");
        }
    }
    let old = {
        let mut writer = Writer::default();
        writer.tensor("running_mean", &[1], &[0.0]).unwrap();
        writer.tensor("running_var", &[1], &[1.0]).unwrap();
        writer.serialize().unwrap()
    };
    assert_eq!(layer(&old, true).unwrap_err().missing, ["num_batches_tracked"]);
    assert_eq!(layer(&old, false).unwrap(), [0]);
}

#[test]
fn what_does_not_fit_is_not_written() {
    let refused = |result: batchnorm_wgpu::Result<()>| match result {
        Err(Error::Mismatch { name, .. }) => name,
        other => panic!("{other:?}"),
    };
    let mut writer = Writer::default();
    assert_eq!(refused(writer.layer("", &LayerState { beta: Some(vec![0.0; 2]), ..layer() })), "bias");
    let mut uneven = layer();
    uneven.running.as_mut().unwrap().tracked[1] = 3;
    assert_eq!(refused(writer.layer("uneven.", &uneven)), "tracked");
    assert_eq!(refused(writer.tensor("t", &[2, 2], &[0.0; 3])), "tensor");
    assert_eq!(refused(writer.tensor("t", &[usize::MAX, 2], &[0.0; 3])), "tensor");
    writer.tensor("t", &[], &[0.0]).unwrap();
    assert_eq!(refused(writer.tensor("t", &[], &[0.0])), "tensor");
}

/// Reads whatever a file may hold. What counts is that nothing panics.
fn read_all(bytes: &[u8]) -> batchnorm_wgpu::Result<()> {
    let mut reader = Reader::new(bytes)?;
    let mut faults = Contents::default();
    for prefix in ["layer1.0.bn1.", "layer1.0.bn10.", "bn."] {
        faults.gather(reader.layer(prefix, 3, Parts::default()));
    }
    faults.gather(reader.tensor("fc.weight", &[2, 3]));
    faults.gather(reader.finish());
    Ok(faults.into_result()?)
}

#[test]
fn parts_of_a_file_are_refused_at_every_length() {
    let bytes = network();
    for length in 0..bytes.len() {
        assert!(matches!(Reader::new(&bytes[..length]), Err(Error::Checkpoint { .. })), "{length}");
    }
    assert!(matches!(Reader::new(&[bytes.as_slice(), &[0]].concat()), Err(Error::Checkpoint { .. })));
    let error = Reader::new(&bytes[..100]).unwrap_err().to_string();
    assert_eq!(
        error,
        "expected a whole .safetensors file, got one of 100 bytes, less than its header announces; write or download it anew"
    );
}

#[test]
fn a_file_may_hold_no_tensors() {
    let bytes = Writer::default().serialize().unwrap();
    Reader::new(&bytes).unwrap().finish().unwrap();
    assert_eq!(Reader::new(&file("{}", &[])).unwrap().remaining("").count(), 0);
}

#[test]
fn no_more_is_read_than_a_long_header() {
    let mut writer = Writer::default();
    writer.metadata("note", "n".repeat(1000));
    writer.tensor("t", &[1000], &[0.0; 1000]).unwrap();
    let bytes = writer.serialize().unwrap();
    let mut file = bytes.as_slice();
    Header::read(&mut file, bytes.len() as u64).unwrap();
    assert_eq!(file.len(), 4000);
}

#[test]
fn a_header_that_is_no_object_is_told_so() {
    let error = Reader::new(&file("[]", &[])).unwrap_err().to_string();
    assert!(error.contains("expected an object"), "{error}");
}

#[test]
fn no_flipped_bit_panics() {
    let mut bytes = network();
    for bit in 0..8 * bytes.len() {
        bytes[bit / 8] ^= 1 << (bit % 8);
        let _ = read_all(&bytes);
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn headers_that_lie_are_refused() {
    let tensor = |shape: &str, start: u64, end: u64| {
        format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":[{start},{end}]}}"#)
    };
    let largest = (1u64 << 61) - 4;
    let shape = format!("[{}]", largest / 4);
    let huge: Vec<String> =
        (0..8).map(|i| format!(r#""t{i}":{}"#, tensor(&shape, i * largest, (i + 1) * largest))).collect();
    let headers = [
        String::new(),
        "[]".into(),
        "{".into(),
        "null".into(),
        "[".repeat(100_000),
        format!(r#"{{"t":{}}}"#, tensor("[2]", 0, 4)),
        format!(r#"{{"t":{}}}"#, tensor("[1]", 4, 8)),
        format!(r#"{{"t":{}}}"#, tensor("[1]", 8, 4)),
        format!(r#"{{"t":{}}}"#, tensor("[18446744073709551615,18446744073709551615]", 0, 4)),
        format!(r#"{{"t":{}}}"#, tensor("[4611686018427387904]", 0, 0)),
        format!(r#"{{"t":{}}}"#, tensor("[-1]", 0, 4)),
        // Ends that leave no room for the header before them.
        format!("{{{}}}", huge.join(",")),
        format!(r#"{{"t":{0},"u":{0}}}"#, tensor("[1]", 0, 4)),
        r#"{"__metadata__":{"n":1}}"#.into(),
    ];
    for header in headers {
        let refused = matches!(Reader::new(&file(&header, &[0; 4])), Err(Error::Checkpoint { .. }));
        assert!(refused, "{}", &header[..header.len().min(200)]);
    }
    for length in [u64::MAX, u64::MAX - 7, 1 << 40, 3] {
        assert!(matches!(Reader::new(&[&length.to_le_bytes()[..], b"{}"].concat()), Err(Error::Checkpoint { .. })));
    }
}

#[test]
fn a_host_layer_goes_on_from_a_file() {
    let gpu = Gpu::open(None).expect("this test needs an adapter");
    let new = |channels| {
        HostBatchNorm::new(&gpu.device, &gpu.queue, channels, Layout::ChannelsFirst, Config::default()).unwrap()
    };
    let x = Array2::from_shape_fn((8, 3), |(n, c)| (n * n) as f32 / (c + 1) as f32);
    let mut trained = new(3);
    trained.gamma = Some(vec![0.5, 2.0, -1.0].into());
    trained.forward_training(x.view(), None).unwrap();
    let mut writer = Writer::default();
    writer.layer("bn.", &trained.state()).unwrap();
    let bytes = writer.serialize().unwrap();
    let state = Reader::new(&bytes).unwrap().layer("bn.", 3, Parts::default()).unwrap();
    let mut restored = new(3);
    restored.set_state(state.clone()).unwrap();
    assert_eq!((&restored.gamma, &restored.beta), (&trained.gamma, &trained.beta));
    assert_eq!((&restored.running.mean, &restored.running.var), (&trained.running.mean, &trained.running.var));
    assert_eq!(restored.running.tracked, [1, 1, 1]);
    let mut other = new(4);
    assert!(matches!(other.set_state(state), Err(Error::Mismatch { name: "weight", .. })));
    assert_eq!(other.running, RunningStatistics::new(4));
    restored.set_state(LayerState::default()).unwrap();
    assert_eq!((restored.gamma, restored.running.tracked), (None, vec![1, 1, 1]));
}
