//! The order in which cases are run: those first that say most.

use super::{LEAST_HELD, must_be_covered};
use crate::case::{Adds, Case, Setup};
use batchnorm_wgpu::kernels::{Settings, Variant};
use batchnorm_wgpu::{Activation, Kernels, Views};
use std::collections::HashSet;

/// Cases in the order of what they say, so that a run may end after any of them.
///
/// First stands the quick choice: every kernel by every geometry and reduction, with every storage, with ReLU and without; every
/// activation, kind of data, policy and option of every operation. Then one case for each kernel variant that must be covered and
/// was not. Then the rest, with those that run the same shaders side by side, so that few need to be kept compiled.
pub struct Ranking {
    /// All cases.
    pub cases: Vec<Case>,
    /// How many of them make the quick choice.
    pub quick: usize,
    /// How many shaders those up to each have, about: compiling them takes most of the time.
    shaders: Vec<usize>,
}

impl Ranking {
    /// The cases of the matrix.
    pub fn new(cases: Vec<Case>, kernels: &Kernels) -> Self {
        Self::by(cases, kernels, traits)
    }

    /// The cases of tensors in parts. That their kernels are right on tensors in one part is known by then.
    pub fn of_parts(cases: Vec<Case>, kernels: &Kernels) -> Self {
        Self::by(cases, kernels, |case, variants| {
            let settings = variants.iter().map(|variant| variant.settings);
            let of = |text: String| format!("{} {text}", case.operation);
            settings
                .flat_map(|Settings { geometry, storage, .. }| [of(geometry.to_string()), of(storage.to_string())])
                .chain([of(case.data.to_string())])
                .collect()
        })
    }

    fn by(cases: Vec<Case>, kernels: &Kernels, traits: fn(&Case, &[Variant]) -> Vec<String>) -> Self {
        // A plan that is refused is an error of the case when it runs.
        let variants: Vec<Vec<Variant>> = cases.iter().map(|case| case.variants(kernels).unwrap_or_default()).collect();
        let mut order: Vec<usize> = (0..cases.len()).collect();
        order.sort_by_key(|&i| far_from_ordinary(&cases[i]));
        let (mut quick, mut known) = (Vec::new(), HashSet::new());
        for &i in &order {
            let short = variants[i].iter().all(|variant| variant.settings.held <= LEAST_HELD);
            let own = if short { traits(&cases[i], &variants[i]) } else { Vec::new() };
            if own.iter().any(|one| !known.contains(one)) {
                known.extend(own);
                quick.push(i);
            }
        }
        let mut taken: HashSet<usize> = quick.iter().copied().collect();
        let mut covered: HashSet<Variant> = quick.iter().flat_map(|&i| &variants[i]).copied().collect();
        let mut covering = Vec::new();
        for &i in order.iter().filter(|i| !taken.contains(i)) {
            let new = |variant: &&Variant| must_be_covered(variant) && !covered.contains(*variant);
            if variants[i].iter().any(|variant| new(&variant)) {
                covered.extend(&variants[i]);
                covering.push(i);
            }
        }
        taken.extend(&covering);
        let shaders_of = |i: &usize| {
            let names: Vec<String> = variants[*i].iter().map(Variant::name).collect();
            (names, bindings(&cases[*i]))
        };
        let mut rest: Vec<usize> = (0..cases.len()).filter(|i| !taken.contains(i)).collect();
        rest.sort_by_cached_key(shaders_of);
        let ranked: Vec<usize> = quick.iter().copied().chain(covering).chain(rest).collect();
        let mut seen = HashSet::new();
        let shaders = ranked
            .iter()
            .map(|&i| {
                seen.extend(variants[i].iter().map(|variant| (*variant, bindings(&cases[i]))));
                seen.len()
            })
            .collect();
        let mut cases: Vec<Option<Case>> = cases.into_iter().map(Some).collect();
        let cases = ranked.into_iter().filter_map(|i| cases[i].take()).collect();
        Self { cases, quick: quick.len(), shaders }
    }

    /// About how many shaders the first `cases` compile.
    pub fn shaders(&self, cases: usize) -> usize {
        cases.checked_sub(1).and_then(|last| self.shaders.get(last)).copied().unwrap_or(0)
    }

    /// Only the cases that `keep` says; all of them make the quick choice then.
    pub fn filtered(cases: Vec<Case>, kernels: &Kernels, keep: impl Fn(&Case) -> bool) -> Self {
        let cases: Vec<Case> = cases.into_iter().filter(|case| keep(case)).collect();
        let ranking = Self::new(cases, kernels);
        Self { quick: ranking.cases.len(), ..ranking }
    }
}

/// How far the shape of a case is from one that has several workgroups, tails of every kind, and is done at once.
fn far_from_ordinary(case: &Case) -> u32 {
    let elements = case.shape.elements() as f64;
    ((elements / 2000.0).ln().abs() * 1e3) as u32
}

/// What a case shows.
fn traits(case: &Case, variants: &[Variant]) -> Vec<String> {
    let of_kernels = variants.iter().flat_map(|variant| {
        let Settings { geometry, reduction, storage, activation, from_y, .. } = variant.settings;
        let name = variant.kernel.name;
        let fused =
            matches!(activation, Activation::None | Activation::Relu).then(|| format!("{name} {activation} {from_y}"));
        [format!("{name} {geometry} {reduction}"), format!("{name} {storage}")].into_iter().chain(fused)
    });
    let own = [case.data.to_string(), format!("{:?}", case.config.running), case.config.activation.to_string()];
    let of_operation = bindings(case).into_iter().chain(own);
    of_kernels.chain(of_operation.map(|text| format!("{} {text}", case.operation))).collect()
}

/// Which bindings there are, and where they lie, as far as that differs from the ordinary.
fn bindings(case: &Case) -> Vec<String> {
    let Setup {
        pooled,
        packed,
        in_place,
        over_residual,
        running,
        dx,
        dresidual,
        dgamma,
        dbeta,
        one_batch,
        micro_batch,
        choice: _,
    } = case.setup;
    let flags = [
        (pooled, "pooled"),
        (packed, "packed"),
        (in_place, "in place"),
        (over_residual, "over the residual, or its gradient over dy"),
        (case.adds == Adds::Parameters, "adds parameters"),
        (case.adds == Adds::All, "adds"),
        (!running, "no running"),
        (!dx, "no dx"),
        (case.residual, "residual"),
        (case.residual && !dresidual, "no dresidual"),
        (!dgamma, "no dgamma"),
        (!dbeta, "no dbeta"),
        (one_batch, "one batch"),
        (micro_batch.is_some(), "micro-batches"),
        (!case.gamma, "no gamma"),
        (!case.beta, "no beta"),
    ];
    let Views { x, y, residual } = case.shape.views();
    let views = [(x, "x"), (y, "y"), (residual, "residual")].map(|(view, name)| view.map(|_| name));
    let views = views.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let views = (!views.is_empty()).then(|| format!("views {views}{}", if x == y { " alike" } else { "" }));
    flags.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag.to_owned()).chain(views).collect()
}
