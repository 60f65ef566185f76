//! What a LoRA would do to a base: which modules it changes, which it cannot find, which do not fit.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{
    dense,
    file::{Lora, Module},
    spelling::{BaseTensor, Spellings},
};

/// A module that fits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fit {
    /// Its name in the LoRA's file.
    pub stem: String,
    /// The component of the base.
    pub component: String,
    /// The module's canonical path; its weight is `<path>.weight`.
    pub path: String,
    /// Rank; 0 where the change has none.
    pub rank: usize,
    /// `lora`, `locon`, `loha`, `lokr`, `dora`, `full`, `bias`.
    pub flavour: &'static str,
    /// Bytes of the base's tensors that it changes.
    pub bytes: u64,
}

/// A module whose change has other dimensions than the base's weight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    /// Its name in the LoRA's file.
    pub stem: String,
    /// The base's tensor.
    pub tensor: String,
    /// Rows and columns of the change.
    pub found: [usize; 2],
    /// Dimensions of the base's tensor.
    pub expected: Vec<usize>,
}

/// A LoRA against a base.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Modules that fit, by stem.
    pub matched: Vec<Fit>,
    /// Modules that the base does not have, by stem.
    pub unmatched: Vec<String>,
    /// Modules that do not fit.
    pub mismatched: Vec<Mismatch>,
    /// Modules of the touched components that it does not change: component and canonical path, in order.
    pub untouched: Vec<String>,
    /// Components that it touches.
    pub components: Vec<String>,
    /// Ranks with how many modules have them.
    pub ranks: BTreeMap<usize, usize>,
    /// Bytes of the tensors that it changes: what a variant takes beside its base.
    pub bytes: u64,
}

impl Report {
    /// Why the LoRA is not for this base; none when it may be applied. Partial matches between families are common, so a
    /// LoRA is refused as a whole.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        if let Some(first) = self.mismatched.first() {
            let Mismatch { stem, tensor, found: [rows, columns], expected } = first;
            let count = self.mismatched.len();
            return Some(format!(
                "{count} of its modules have other dimensions than the base: `{stem}` changes {rows} by {columns}, `{tensor}` is {expected:?}"
            ));
        }
        let all = self.matched.len() + self.unmatched.len();
        (self.matched.len() * 2 < all.max(1)).then(|| {
            let first = self.unmatched.first().map_or("", String::as_str);
            format!("the base has only {} of its {all} modules; `{first}` is not among them", self.matched.len())
        })
    }
}

/// Compares a LoRA with a base. Reads no weights of the base.
#[must_use]
pub fn match_base(lora: &Lora, base: &[BaseTensor]) -> Report {
    let spellings = Spellings::of(base);
    let tensors: BTreeMap<(&str, &str), &BaseTensor> =
        base.iter().map(|tensor| ((tensor.component.as_str(), tensor.name.as_str()), tensor)).collect();
    let (mut matched, mut unmatched, mut mismatched) = (Vec::new(), Vec::new(), Vec::new());
    for module in &lora.modules {
        let Some((component, path)) = spellings.find(&module.stem) else {
            unmatched.push(module.stem.clone());
            continue;
        };
        match fit(module, component, path, &tensors) {
            Ok(fit) => matched.push(fit),
            Err(mismatch) => mismatched.push(mismatch),
        }
    }
    let components: BTreeSet<String> = matched.iter().map(|fit| fit.component.clone()).collect();
    let touched: BTreeSet<(&str, &str)> =
        matched.iter().map(|fit| (fit.component.as_str(), fit.path.as_str())).collect();
    let mut ranks = BTreeMap::new();
    matched.iter().filter(|fit| fit.rank > 0).for_each(|fit| *ranks.entry(fit.rank).or_default() += 1);
    Report {
        untouched: untouched(base, &components, &touched),
        bytes: matched.iter().map(|fit| fit.bytes).sum(),
        components: components.into_iter().collect(),
        matched,
        unmatched,
        mismatched,
        ranks,
    }
}

/// Modules of these components, but for those that are changed.
fn untouched(base: &[BaseTensor], components: &BTreeSet<String>, touched: &BTreeSet<(&str, &str)>) -> Vec<String> {
    let module = |tensor: &'_ BaseTensor| {
        let path = tensor.name.strip_suffix(".weight")?.to_owned();
        let is_whole =
            components.contains(&tensor.component) && !touched.contains(&(tensor.component.as_str(), path.as_str()));
        is_whole.then(|| format!("{}.{path}", tensor.component))
    };
    base.iter().filter_map(module).collect::<BTreeSet<_>>().into_iter().collect()
}

fn fit(
    module: &Module,
    component: &str,
    path: &str,
    base: &BTreeMap<(&str, &str), &BaseTensor>,
) -> Result<Fit, Mismatch> {
    let of = |leaf: &str| {
        let name = format!("{path}.{leaf}");
        base.get(&(component, name.as_str())).map(|tensor| (name.clone(), *tensor))
    };
    let other = |tensor: String, found: [usize; 2], expected: &[usize]| Mismatch {
        stem: module.stem.clone(),
        tensor,
        found,
        expected: expected.to_vec(),
    };
    let mut bytes = 0;
    if let Some(change) = dense::shape(module) {
        let Some((name, weight)) = of("weight") else { return Err(other(format!("{path}.weight"), change, &[])) };
        let rows = weight.shape.first().copied().unwrap_or(1);
        let columns: usize = weight.shape.iter().skip(1).product();
        if change != [rows, columns] {
            return Err(other(name, change, &weight.shape));
        }
        if module.magnitude.as_ref().is_some_and(|magnitude| super::change::axis(magnitude, &weight.shape).is_none()) {
            return Err(other(name, [module.magnitude.as_ref().map_or(0, |m| m.values.len()), 1], &weight.shape));
        }
        bytes += weight.bytes;
    }
    if let Some(bias) = &module.bias {
        let found = [bias.values.len(), 1];
        match of("bias") {
            Some((_, there)) if there.shape == [bias.values.len()] => bytes += there.bytes,
            Some((name, there)) => return Err(other(name, found, &there.shape)),
            None => return Err(other(format!("{path}.bias"), found, &[])),
        }
    }
    let (component, path) = (component.to_owned(), path.to_owned());
    Ok(Fit { stem: module.stem.clone(), component, path, rank: module.rank, flavour: module.flavour(), bytes })
}
