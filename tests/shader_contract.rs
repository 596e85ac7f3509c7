//! Shaders without a device: every variant of every kernel parses and validates, declares what the host binds, and lays
//! its parameters out as the host does.

use batchnorm_wgpu::Capabilities;
use batchnorm_wgpu::kernels::{
    Access, COMMON, Geometry, KERNELS, PARAMETER_PLANES, Place, RUNNING_PLANES, Reduction, STATISTIC_PLANES, Settings,
    Shader, Source, Storage, Strategy, Variant, Wanted, kernels_of,
};
use batchnorm_wgpu::plan::{LONGEST_MERGE, LONGEST_RUN, Parameter, Params};
use batchnorm_wgpu::{Activation, Choice, Config, DType, Layout, Operation, Plan, Shape, Tuning};
use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities as Allowed, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, GlobalVariable, Module, ScalarKind, StorageAccess, TypeInner};
use std::collections::{HashMap, HashSet};

fn parse(variant: &Variant) -> Module {
    let source = variant.wgsl();
    naga::front::wgsl::parse_str(&source)
        .unwrap_or_else(|error| panic!("{}: {}", variant.name(), error.emit_to_string(&source)))
}

fn plan_of(shape: &Shape) -> Plan {
    let (capabilities, tuning) = (Capabilities::default_limits(), Tuning::none());
    Plan::new(Operation::ForwardTraining, shape, DType::F32, &capabilities, &tuning, &Choice::default()).unwrap()
}

fn info_of(variant: &Variant, module: &Module) -> ModuleInfo {
    // Only what every WebGPU device has, and subgroups and f16 where the variant is for devices that have them.
    let Settings { reduction, storage, .. } = variant.settings;
    let mut allowed = Allowed::SHADER_FLOAT16_IN_FLOAT32;
    allowed.set(Allowed::SUBGROUP, reduction == Reduction::Subgroup);
    allowed.set(Allowed::SHADER_FLOAT16, storage == Storage::F16);
    let mut validator = Validator::new(ValidationFlags::all(), allowed);
    validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE);
    validator.subgroup_operations(naga::valid::SubgroupOperationSet::all());
    let validated = validator.validate(module);
    validated.unwrap_or_else(|error| panic!("{}: {}", variant.name(), error.emit_to_string(&variant.wgsl())))
}

fn validate(variant: &Variant, module: &Module) {
    let info = info_of(variant, module);
    // Constants are declared alike however a kernel is bound.
    if *variant != Variant::new(variant.kernel, variant.settings) {
        return;
    }
    let shape = Shape::new(&[4, 8, 3, 5], Layout::ChannelsFirst).unwrap();
    let plan = plan_of(&shape);
    let constants = plan.constants().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    naga::back::pipeline_constants::process_overrides(module, &info, None, &constants)
        .unwrap_or_else(|error| panic!("{}: constants: {error}", variant.name()));
}

fn bound(module: &Module) -> Vec<(u32, &GlobalVariable)> {
    let variables = module.global_variables.iter();
    let mut bound: Vec<_> = variables.filter_map(|(_, variable)| Some((variable.binding?.binding, variable))).collect();
    bound.sort_by_key(|(number, _)| *number);
    bound
}

fn check_bindings(variant: &Variant, module: &Module) {
    let found: Vec<_> = bound(module)
        .into_iter()
        .filter(|(number, _)| *number != 0)
        .map(|(number, variable)| {
            let AddressSpace::Storage { access } = variable.space else {
                panic!("{}: {:?} is no storage buffer", variant.name(), variable.name)
            };
            let written = access.contains(StorageAccess::STORE);
            (number, variable.name.clone().unwrap(), if written { Access::Write } else { Access::Read })
        })
        .collect();
    let declared: Vec<_> = variant
        .declared()
        .map(|(number, binding)| (number, binding.name.to_owned(), variant.access(binding)))
        .collect();
    assert_eq!(found, declared, "{}", variant.name());
    assert!(found.len() <= 8, "{} binds {} storage buffers, default limits allow 8", variant.name(), found.len());
}

#[test]
fn every_variant_validates() {
    let variants: Vec<Variant> = Variant::all().collect();
    // Three geometries of each kernel at least.
    assert!(variants.len() >= 3 * KERNELS.len(), "{}", variants.len());
    let share = variants.len().div_ceil(std::thread::available_parallelism().map_or(1, usize::from));
    std::thread::scope(|scope| {
        for variants in variants.chunks(share) {
            scope.spawn(move || {
                for variant in variants {
                    let module = parse(variant);
                    validate(variant, &module);
                    check_bindings(variant, &module);
                }
            });
        }
    });
}

/// What wgpu does for Vulkan, Metal and Direct3D 12, of which most machines have only one.
fn translate(variant: &Variant) {
    let text = variant.shader_of(Some(256)).text;
    let name = variant.name();
    let module = naga::front::wgsl::parse_str(&text).unwrap();
    let info = info_of(variant, &module);
    // The first versions with subgroups and f16.
    let spirv = spv::Options { lang_version: (1, 3), ..Default::default() };
    let words = spv::write_vec(&module, &info, &spirv, None).unwrap_or_else(|error| panic!("{name}: SPIR-V: {error}"));
    assert!(words.len() > 5, "{name}");
    let metal = msl::Options { lang_version: (2, 4), ..Default::default() };
    let (text, found) = msl::write_string(&module, &info, &metal, &Default::default())
        .unwrap_or_else(|error| panic!("{name}: MSL: {error}"));
    assert!(found.entry_point_names.iter().all(Result::is_ok), "{name}: MSL: {:?}", found.entry_point_names);
    assert!(text.contains("kernel void"), "{name}");
    let direct3d = hlsl::Options { shader_model: hlsl::ShaderModel::V6_2, ..Default::default() };
    let (mut text, pipeline) = (String::new(), hlsl::PipelineOptions::default());
    let found = hlsl::Writer::new(&mut text, &direct3d, &pipeline)
        .write(&module, &info, None)
        .unwrap_or_else(|error| panic!("{name}: HLSL: {error}"));
    assert!(found.entry_point_names.iter().all(Result::is_ok), "{name}: HLSL: {:?}", found.entry_point_names);
    assert!(text.contains("numthreads(256, 1, 1)"), "{name}");
}

#[test]
fn every_variant_translates() {
    // However they are bound: scalar f32, which has every combination, and of all others without an activation those that hold
    // few values.
    let is_short = |settings: &Settings| {
        settings.activation == Activation::None && !settings.from_y && settings.held <= Strategy::HELD[0]
    };
    let is_plain =
        |settings: &Settings| *settings == Settings::plain(settings.geometry, settings.reduction, settings.held);
    let is_scalar =
        |settings: &Settings| settings.geometry == Geometry::Scalar && settings.reduction == Reduction::Tree;
    let bound_otherwise = Variant::all()
        .filter(|Variant { settings, .. }| is_short(settings) && (is_scalar(settings) || !is_plain(settings)));
    let mut translated = HashSet::new();
    for variant in Variant::apart().chain(bound_otherwise).filter(|variant| translated.insert(*variant)) {
        translate(&variant);
    }
}

#[test]
fn params_lie_as_on_the_host() {
    let module = parse(&Variant::all().next().unwrap());
    let (_, variable) = bound(&module)[0];
    let TypeInner::Struct { members, span } = &module.types[variable.ty].inner else { panic!("params is no struct") };
    assert_eq!(*span as usize, size_of::<Params>());
    let of_shader = members.iter().map(|member| {
        let TypeInner::Scalar(scalar) = module.types[member.ty].inner else { panic!("{member:?} is no number") };
        (member.name.as_deref().unwrap(), scalar.kind, member.offset as usize)
    });
    let zeroed: Params = bytemuck::Zeroable::zeroed();
    let of_host = zeroed.by_name().enumerate().map(|(i, (name, parameter))| match parameter {
        Parameter::U32(_) => (name, ScalarKind::Uint, 4 * i),
        Parameter::F32(_) => (name, ScalarKind::Float, 4 * i),
    });
    assert_eq!(of_shader.collect::<Vec<_>>(), of_host.collect::<Vec<_>>());
    // Each host field holds a mark that says where it lies; read back by the shader's offsets.
    let shape = Shape::new(&[2, 4, 3, 5], Layout::ChannelsFirst).unwrap();
    let plan = plan_of(&shape);
    let params = plan.params(&shape, &Config { eps: 0.5, ..Config::default() }, KERNELS[0], 0, 7);
    let words: &[u32] = bytemuck::cast_slice(bytemuck::bytes_of(&params));
    let word = |name: &str| {
        let member = members.iter().find(|member| member.name.as_deref() == Some(name)).unwrap();
        words[member.offset as usize / 4]
    };
    assert_eq!((word("lanes") * word("tile"), word("channels"), word("count")), (plan.workgroup_size, 4, 30));
    assert_eq!(f32::from_bits(word("eps")), 0.5);
    assert_eq!(f32::from_bits(word("count_f32")), 30.0);
    assert_eq!((word("base"), word("window_take")), (7, u32::MAX));
}

#[test]
fn blocks_are_as_the_plan_and_the_bound_count_them() {
    // The bound: 32 merges of four in a block, 64 blocks at most.
    assert_eq!((LONGEST_RUN, LONGEST_MERGE), (4 * 32 * 64, 16));
    let summing = Variant::apart().filter(|variant| variant.kernel.name == "moments");
    summing.for_each(|variant| assert!(variant.wgsl().contains("const BLOCK: u32 = 128u;")));
}

#[test]
fn kernels_move_what_the_operations_say() {
    let settings = Variant::all().next().unwrap().settings;
    let moves = |kernels: &[&'static _], absent: &[&str]| -> u32 {
        let of = |kernel: &&'static batchnorm_wgpu::kernels::Kernel| {
            let mut variant = Variant::new(kernel, settings);
            for (i, binding) in kernel.bindings.iter().enumerate() {
                variant.absent |= u32::from(absent.contains(&binding.name)) << i;
            }
            variant.moves()
        };
        kernels.iter().map(of).sum()
    };
    for (operation, strategy) in Operation::ALL.into_iter().flat_map(|one| Strategy::ALL.map(|by| (one, by))) {
        let kernels = kernels_of(operation, strategy, Wanted::All);
        let moved = moves(kernels, &["residual", "dresidual"]);
        assert!(kernels.is_empty() || moved >= operation.least_moves(), "{operation} {strategy}");
        assert!(strategy != Strategy::Resident || kernels.is_empty() || moved == operation.least_moves());
    }
    // Two passes that read x and dy, and one dx: five tensors. With a residual, a kernel reads it once more.
    let backward = kernels_of(Operation::BackwardTraining, Strategy::Split, Wanted::All);
    assert_eq!(moves(backward, &["residual", "dresidual"]), 5);
    let forward = kernels_of(Operation::ForwardTraining, Strategy::Resident, Wanted::All);
    assert_eq!((moves(forward, &["residual"]), moves(forward, &[])), (2, 3));
}

#[test]
fn names_are_unique_and_file_stems() {
    for (i, kernel) in KERNELS.iter().enumerate() {
        assert!(KERNELS[..i].iter().all(|other| other.name != kernel.name), "{}", kernel.name);
        assert_eq!(kernel.source.path.replace('/', "_"), format!("{}.wgsl", kernel.name));
        assert!(kernel.source.text.contains("fn kernel("), "{}", kernel.name);
    }
}

/// Every file, those that kernels share first.
fn sources() -> Vec<Source> {
    COMMON.into_iter().chain(KERNELS.iter().map(|kernel| kernel.source)).collect()
}

#[test]
fn every_line_of_every_shader_is_of_a_file() {
    let mut used = HashSet::new();
    for variant in Variant::all() {
        let Shader { text, places } = variant.shader();
        assert_eq!(text.lines().count(), places.len());
        used.extend(places.into_iter().flatten());
    }
    // And every line of code of every file stands in some shader.
    for source in sources() {
        let mut imports = true;
        for (i, line) in source.text.lines().enumerate() {
            imports &= line.starts_with("//") || line.starts_with("import ");
            let code = line.split("//").next().unwrap().trim();
            // A condition on a line of its own.
            let is_condition = code.starts_with("@if(") && code.find(')') == Some(code.len() - 1);
            let stands = used.contains(&Place { path: source.path, line: i + 1 });
            assert!(
                stands || imports || code.is_empty() || is_condition || code == "// }",
                "{}:{}",
                source.path,
                i + 1
            );
        }
    }
}

/// What the linker does not understand, and would misread in silence.
#[test]
fn files_keep_to_what_the_linker_understands() {
    for source in sources() {
        let lines: Vec<&str> = source.text.lines().collect();
        assert!(!source.text.contains("/*") && !source.text.contains("const_assert"), "{}", source.path);
        for (i, line) in lines.iter().enumerate().filter(|(_, line)| line.contains("@if(")) {
            let place = format!("{}:{}", source.path, i + 1);
            let (condition, rest) =
                line.trim_start().strip_prefix("@if(").expect(&place).split_once(')').expect(&place);
            assert!(!condition.contains('(') && !rest.contains("@if("), "{place}: one condition, without brackets");
            assert!(!rest.ends_with(','), "{place}: members and parameters have no conditions");
            let next = lines.get(i + 1).copied().unwrap_or_default().trim_start();
            assert!(
                !rest.trim().is_empty() || !(next.is_empty() || next.starts_with("@if(")),
                "{place}: nothing follows"
            );
        }
        assert!(lines.iter().all(|line| !line.trim_start().starts_with("else")), "{}", source.path);
    }
}

#[test]
fn conditions_name_features() {
    let variant = Variant::all().next().unwrap();
    let mut conditions = 0;
    for source in sources() {
        for line in source.text.lines().filter_map(|line| line.trim().strip_prefix("@if(")) {
            let condition = line.split(')').next().unwrap();
            for term in condition
                .split(['|', '&'])
                .map(|term| term.trim().trim_start_matches('!'))
                .filter(|term| !term.is_empty())
            {
                assert!(variant.has(term).is_some(), "{}: {term}", source.path);
                conditions += 1;
            }
        }
    }
    assert!(conditions > 50, "{conditions}");
}

/// The words of a line of code that are no members of a struct.
fn words(line: &str) -> Vec<&str> {
    let code = line.split("//").next().unwrap();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let starts =
        code.char_indices().filter(|&(i, c)| is_word(c) && !code[..i].ends_with(is_word) && !code[..i].ends_with('.'));
    starts.map(|(i, _)| code[i..].split(|c| !is_word(c)).next().unwrap()).collect()
}

/// What a file declares.
fn declared(source: &Source) -> HashSet<&'static str> {
    let mut names = HashSet::new();
    for line in source.text.lines().filter(|line| !line.starts_with([' ', '}', '/'])) {
        let words = words(line.split_once(") ").filter(|_| line.starts_with("@if(")).map_or(line, |(_, rest)| rest));
        let begin = words.iter().position(|word| ["fn", "struct", "alias", "const", "override", "var"].contains(word));
        let names_of_spaces = ["uniform", "workgroup"];
        names.extend(begin.and_then(|i| words[i + 1..].iter().find(|word| !names_of_spaces.contains(word))));
    }
    names
}

#[test]
fn imports_are_what_is_used() {
    let planes = names_of_planes();
    let homes: HashMap<&str, &str> = COMMON
        .iter()
        .flat_map(|source| declared(source).into_iter().map(|name| (name, source.path)))
        .chain(KERNELS.iter().flat_map(|kernel| kernel.bindings).map(|binding| (binding.name, "table")))
        .chain([("WORKGROUP", "table"), ("STATISTIC_PLANES", "table")])
        .chain(planes.iter().map(|name| (name.as_str(), "table")))
        .collect();
    for source in sources() {
        let mut imported = HashSet::new();
        let mut used = HashSet::new();
        for line in source.text.lines() {
            match line.strip_prefix("import package::") {
                None => used.extend(words(line)),
                Some(path) => {
                    let (file, names) = path.trim_end_matches(';').rsplit_once("::").unwrap();
                    let file = if file == "table" { "table".to_owned() } else { file.replace("::", "/") + ".wgsl" };
                    for name in names.trim_matches(['{', '}']).split(", ") {
                        assert_eq!(homes.get(name).copied(), Some(file.as_str()), "{}: {name}", source.path);
                        assert!(imported.insert(name), "{}: {name} twice", source.path);
                    }
                }
            }
        }
        let unused: Vec<_> = imported.iter().filter(|name| !used.contains(*name)).collect();
        assert!(unused.is_empty(), "{} imports {unused:?} and does not use it", source.path);
        let own = declared(&source);
        // A binding may share its name with a parameter of a function; constants share theirs with nothing.
        let is_constant = |name: &str| name.chars().all(|c| c.is_uppercase() || c == '_');
        let is_foreign = |name: &&&str| {
            homes.get(**name).is_some_and(|home| *home != "table" || is_constant(name)) && !own.contains(**name)
        };
        let missing: Vec<_> = used.iter().filter(is_foreign).filter(|name| !imported.contains(*name)).collect();
        assert!(missing.is_empty(), "{} does not import {missing:?}", source.path);
    }
}

#[test]
fn only_reductions_have_barriers() {
    // naga does not check uniformity; browsers do.
    for source in sources() {
        assert_eq!(source.text.contains("Barrier()"), source.path == "common/reduce.wgsl", "{}", source.path);
        // The running statistics are updated by one invocation, after the last barrier.
        assert!(source.path == "common/running.wgsl" || !source.text.contains("return;"), "{}", source.path);
    }
}

/// The constants that shaders have for the numbers of planes.
fn names_of_planes() -> Vec<String> {
    let planes = [("RUNNING", &RUNNING_PLANES[..]), ("STATISTIC", &STATISTIC_PLANES), ("PARAMETER", &PARAMETER_PLANES)];
    let named = planes.iter().flat_map(|(kind, names)| names.iter().map(move |name| format!("{kind}_{name}")));
    named.map(|name| name.to_uppercase()).collect()
}

#[test]
fn every_plane_is_used() {
    let used: HashSet<&str> = sources().iter().flat_map(|source| source.text.lines()).flat_map(words).collect();
    let unused: Vec<_> = names_of_planes().into_iter().filter(|name| !used.contains(name.as_str())).collect();
    assert!(unused.is_empty(), "no shader uses {unused:?}");
}
