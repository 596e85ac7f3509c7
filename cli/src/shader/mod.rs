//! `bn shader`: the text of a kernel as it is compiled, with the files that its lines come from.

mod hlsl;

use crate::output::{Claim, Folder};
use crate::{AnyError, ExitStatus};
use batchnorm_wgpu::kernels::{KERNELS, Place, Shader, Variant};
use batchnorm_wgpu_compile::translate::Checked;
use clap::ValueEnum;
use std::path::{Path, PathBuf};

/// Arguments of `bn shader`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ShaderArgs {
    /// A variant, as `bn info --json` and `bn check` name it, such as normalize.planes4.tree; a kernel, such as normalize, which
    /// stands for its first variant; or the beginning of one of these
    #[arg(required_unless_present_any = ["list", "check_hlsl"])]
    name: Option<String>,
    /// List the names of all variants, one a line; with NAME those that begin with it
    #[arg(long, conflicts_with_all = ["without", "in_place", "add_to", "pooled", "views", "workgroup_size", "language", "out"])]
    list: bool,
    /// Check what naga writes as HLSL by another compiler, glslang, found as glslangValidator or at PATH: the variants
    /// that `bn check` covers, with all bindings, and what automatic plans choose; with NAME those that begin with it
    #[arg(long, value_name = "PATH", num_args = 0..=1, default_missing_value = hlsl::CHECKER, require_equals = true)]
    #[arg(conflicts_with_all = ["list", "without", "in_place", "add_to", "pooled", "views", "workgroup_size", "language", "out"])]
    check_hlsl: Option<PathBuf>,
    /// Leave out these bindings, separated by commas, such as gamma,beta
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    without: Vec<String>,
    /// Write y over x, or dx over dy; without dx, the gradient of the residual over dy
    #[arg(long)]
    in_place: bool,
    /// Add these gradients to what is there, separated by commas, such as dgamma,dbeta
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    add_to: Vec<String>,
    /// Declare every binding writable, as for tensors that share a buffer
    #[arg(long)]
    pooled: bool,
    /// Tensors that are some of the channels of wider ones
    #[arg(long)]
    views: bool,
    /// The invocations of a workgroup as a constant: a power of two up to 1024. Without it they are a pipeline constant
    #[arg(long, value_name = "N", value_parser = workgroup_size)]
    workgroup_size: Option<u32>,
    /// The language
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Language::Wgsl)]
    language: Language,
    /// Write to FILE instead of standard output. SPIR-V in a file whose name ends in .spv is binary
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  bn shader normalize             the first variant of a kernel
  bn shader --list forward_       the names that begin so
  bn shader plain_forward --without residual,running
  bn shader infer.scalar.f16_words --in-place --workgroup-size 64
  bn shader moments.scalar.tree --language msl
  bn shader moments.scalar.tree --language spirv --out moments.spv
  bn shader --check-hlsl          every shader's HLSL through glslang

Comments such as `// shaders/common/walk.wgsl:12` say where the lines below them stand in the repository. Other languages than \
WGSL are written by naga, as wgpu does it, but without what wgpu adds for a driver, which therefore sees a little more: checks \
of bounds, and counters that end loops.";

/// What a shader is printed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Language {
    /// As it is compiled, with comments that say where each line comes from
    Wgsl,
    /// SPIR-V 1.3, for Vulkan
    Spirv,
    /// MSL 3.0, for Metal
    Msl,
    /// HLSL of shader model 6.2, for Direct3D 12
    Hlsl,
}

fn workgroup_size(text: &str) -> Result<u32, String> {
    let size = text.parse().ok().filter(|size: &u32| size.is_power_of_two() && *size <= 1024);
    size.ok_or_else(|| "expected a power of two from 1 to 1024, such as 64".into())
}

/// Prints a shader, or the names of all.
pub fn run(arguments: &ShaderArgs) -> Result<ExitStatus, AnyError> {
    let name = arguments.name.as_deref().unwrap_or_default();
    if arguments.list {
        let names: Vec<String> = names().filter(|known| known.starts_with(name)).collect();
        if names.is_empty() {
            return Err(unknown(name));
        }
        println!("{}", names.join("\n"));
        return Ok(ExitStatus::Passed);
    }
    if let Some(program) = &arguments.check_hlsl {
        return hlsl::check(program, name);
    }
    let variant = arguments.applied_to(find(name)?)?;
    let file = arguments.out.as_deref().map(|path| Claim::result(path, Folder::Exists)).transpose()?;
    let contents = contents(&variant.shader_of(arguments.workgroup_size), arguments)?;
    match file {
        Some(file) => file.write(&contents)?,
        None => print!("{}", String::from_utf8_lossy(&contents)),
    }
    Ok(ExitStatus::Passed)
}

fn names() -> impl Iterator<Item = String> {
    Variant::every().map(|variant| variant.name())
}

/// The shader in a language.
fn contents(shader: &Shader, arguments: &ShaderArgs) -> Result<Vec<u8>, AnyError> {
    let checked = || Checked::read(&shader.text);
    let binary = arguments.out.as_deref().and_then(Path::extension).is_some_and(|ending| ending == "spv");
    let text = match arguments.language {
        Language::Wgsl => with_places(shader),
        Language::Spirv if binary => return Ok(checked()?.spirv()?.into_iter().flat_map(u32::to_le_bytes).collect()),
        Language::Spirv => checked()?.disassembly()?,
        Language::Msl => checked()?.msl()?,
        Language::Hlsl => checked()?.hlsl()?,
    };
    Ok(text.into_bytes())
}

/// The text with a comment before each run of lines of one file that says where they stand.
fn with_places(shader: &Shader) -> String {
    let mut text = String::new();
    let mut expected: Option<Place> = None;
    for (line, &place) in shader.text.lines().zip(&shader.places) {
        if let Some(Place { path, line: number }) = place.filter(|_| place != expected) {
            let indent = &line[..line.len() - line.trim_start().len()];
            text += &format!("{indent}// shaders/{path}:{number}\n");
        }
        text += line;
        text.push('\n');
        expected = place.map(|place| Place { line: place.line + 1, ..place });
    }
    text
}

/// The variant that a name means.
fn find(wanted: &str) -> Result<Variant, AnyError> {
    let means = |variant: &Variant| variant.kernel.name == wanted || variant.name() == wanted;
    if let Some(variant) = Variant::every().find(means) {
        return Ok(variant);
    }
    let kernels: Vec<&str> = KERNELS.iter().map(|kernel| kernel.name).filter(|name| name.starts_with(wanted)).collect();
    let variants: Vec<Variant> = Variant::every().filter(|variant| variant.name().starts_with(wanted)).collect();
    match (&kernels[..], &variants[..]) {
        (_, []) => Err(unknown(wanted)),
        ([_], [first, ..]) | ([], [first]) => Ok(*first),
        ([], all) => {
            let names: Vec<String> = all.iter().map(Variant::name).collect();
            Err(ambiguous(wanted, "variant", &names))
        }
        (kernels, _) => Err(ambiguous(wanted, "kernel", kernels)),
    }
}

/// Several names begin so.
fn ambiguous(wanted: &str, what: &str, names: &[impl AsRef<str>]) -> AnyError {
    const SHOWN: usize = 30;
    let shown: Vec<&str> = names.iter().map(AsRef::as_ref).take(SHOWN).collect();
    let more = match names.len() - shown.len() {
        0 => String::new(),
        more => format!("\nand {more} more, which bn shader --list {wanted} shows"),
    };
    let (number, shown) = (names.len(), shown.join("\n  "));
    format!("expected one {what}, got {wanted:?}, which {number} begin with; give one of them:\n  {shown}{more}").into()
}

/// No name begins so.
fn unknown(wanted: &str) -> AnyError {
    let mut near: Vec<String> = match wanted.contains('.') {
        true => names().collect(),
        false => KERNELS.iter().map(|kernel| kernel.name.to_owned()).collect(),
    };
    near.sort_by(|a, b| {
        let likeness = |name: &str| strsim::normalized_damerau_levenshtein(wanted, name);
        likeness(b).total_cmp(&likeness(a))
    });
    near.truncate(3);
    format!(
        "expected the name of a kernel or of a variant, or the beginning of one, got {wanted:?}; the nearest are {}; \
         bn shader --list shows all",
        near.join(", ")
    )
    .into()
}

impl ShaderArgs {
    /// The variant with its bindings as asked for.
    fn applied_to(&self, mut variant: Variant) -> Result<Variant, AnyError> {
        for name in &self.without {
            variant.absent |= 1 << optional(&variant, name)?;
        }
        if self.in_place {
            variant = in_place(variant)?;
        }
        for name in &self.add_to {
            variant = adding(variant, name)?;
        }
        if self.views {
            let none = || format!("--views: {} binds no tensor", variant.kernel.name);
            variant = variant.with_views().ok_or_else(none)?;
        }
        variant.pooled = self.pooled;
        Ok(variant)
    }
}

/// The place in the row of a binding that may be left out.
fn optional(variant: &Variant, name: &str) -> Result<usize, AnyError> {
    let bindings = variant.kernel.bindings;
    match bindings.iter().position(|binding| binding.name == name) {
        Some(at) if bindings[at].optional => Ok(at),
        found => {
            let names: Vec<&str> = bindings.iter().filter(|binding| binding.optional).map(|it| it.name).collect();
            let may = match names.is_empty() {
                true => "none of its bindings may be left out".into(),
                false => format!("those that may be left out are {}", names.join(", ")),
            };
            let has = if found.is_some() { "always has" } else { "has no binding" };
            Err(format!("--without {name}: {} {has} {name}; {may}", variant.kernel.name).into())
        }
    }
}

/// With y over x, or dx over dy, or without dx dresidual over dy.
fn in_place(variant: Variant) -> Result<Variant, AnyError> {
    let is_present = |name: &str| variant.has(name).unwrap_or_default();
    let over = [("y", "x"), ("dx", "dy"), ("dresidual", "dy")];
    let found = over.into_iter().find(|(writer, under)| is_present(writer) && is_present(under));
    let changed = found.map(|(writer, under)| variant.through(writer, under));
    changed.filter(|changed| *changed != variant).ok_or_else(|| {
        let name = variant.kernel.name;
        format!("--in-place: {name} has no binding that may be written over another one; y may over x, and dx over dy")
            .into()
    })
}

/// With a gradient added to what is there.
fn adding(variant: Variant, name: &str) -> Result<Variant, AnyError> {
    let changed = variant.adding_to(name);
    if changed != variant && variant.has(name) == Some(true) {
        return Ok(changed);
    }
    let adds = variant.kernel.bindings.iter().filter(|binding| binding.adds && variant.has(binding.name) == Some(true));
    let names: Vec<&str> = adds.map(|binding| binding.name).collect();
    let may = match names.is_empty() {
        true => "it has none that may be added to".into(),
        false => format!("those that may be added to are {}", names.join(", ")),
    };
    Err(format!("--add-to {name}: {} adds to no such binding; {may}", variant.kernel.name).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use batchnorm_wgpu::kernels::{Reduction, Storage};

    #[test]
    fn names_mean_variants() {
        let found = |name: &str| find(name).unwrap().name();
        assert_eq!(found("normalize"), "normalize.planes4.tree");
        assert_eq!(found("norm"), "normalize.planes4.tree");
        // It begins the names of others.
        assert_eq!(found("normalize.scalar.tree"), "normalize.scalar.tree");
        assert_eq!(found("infer.scalar.bf16_words.s"), "infer.scalar.bf16_words.silu");
        names().for_each(|name| assert_eq!(found(&name), name));
    }

    #[test]
    fn comments_say_where_lines_stand() {
        let shader = find("forward_resident.scalar.tree.4").unwrap().shader();
        let with = with_places(&shader);
        let is_place = |line: &&str| line.trim_start().starts_with("// shaders/");
        let without: Vec<&str> = with.lines().filter(|line| !is_place(line)).collect();
        assert_eq!(without, shader.text.lines().collect::<Vec<_>>());
        // A line is where the comment before it says, counted from there.
        let mut at: Option<(String, usize)> = None;
        let mut places = Vec::new();
        for line in with.lines() {
            match line.trim_start().strip_prefix("// shaders/").and_then(|place| place.rsplit_once(':')) {
                Some((path, number)) => at = Some((path.into(), number.parse().unwrap())),
                None => {
                    places.push(at.clone());
                    at = at.map(|(path, number)| (path, number + 1));
                }
            }
        }
        for (place, told) in shader.places.iter().zip(places) {
            let place = place.map(|place| (place.path.to_owned(), place.line));
            assert!(place.is_none() || place == told, "{place:?} {told:?}");
        }
        Checked::read(&with).unwrap();
    }

    /// One of each kind; the library's tests translate them all.
    #[test]
    fn shaders_translate() {
        let wanted = |variant: &Variant| {
            let settings = variant.settings;
            variant.kernel.name == "forward_whole"
                && (settings.reduction == Reduction::Subgroup || settings.storage == Storage::F16)
        };
        for variant in Variant::apart().filter(wanted) {
            let checked = Checked::read(&variant.wgsl()).unwrap();
            assert!(checked.disassembly().unwrap().contains("OpEntryPoint"), "{}", variant.name());
            assert!(checked.msl().unwrap().contains("[[buffer(0)]]"), "{}", variant.name());
            assert!(checked.hlsl().unwrap().contains("[numthreads(256, 1, 1)]"), "{}", variant.name());
        }
    }
}
