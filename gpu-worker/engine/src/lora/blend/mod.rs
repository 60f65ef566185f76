//! A stack of LoRAs as one LoRA: the exact sum, whose ranks add, or its leading directions.
//!
//! Exactly, the factors of all LoRAs stand side by side with their scales and weights in them: LoRA as it is, LoHa as the
//! products of all pairs of its ranks, LoKr with a factored second matrix as `(W ⊗ A) · (1 ⊗ B)`; what is no sum of few
//! products is written whole. Cut to a rank or to a share of the energy, each module is what no other factors of this rank are
//! nearer to (Eckart–Young), told from the factors without the product where they are thin. How far the written file is off is
//! measured on the rounded factors.

mod error;
mod factors;
mod matrix;
mod module;
mod plan;
mod svd;
#[cfg(test)]
mod tests;
mod write;

use std::{
    num::NonZeroUsize,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

pub use error::BlendError;
pub use plan::Source;

use self::{
    module::{Computed, Stored},
    plan::{Matched, Plan, Summand, Target, plan},
    svd::Wanted,
};
use super::{file::LoraTensor, spelling::BaseTensor};
use crate::{Cancel, ElementType};

/// Most bytes of a result, which is held until it is written.
const LIMIT_BYTES: u64 = 4 << 30;

/// How large a module of the result is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Size {
    /// All of it.
    Exact,
    /// At most this rank.
    Rank(usize),
    /// The smallest rank that has this share, 0 to 1, of the sum of the squares of the change's entries.
    Energy(f64),
}

impl Size {
    fn wanted(self) -> Option<Wanted> {
        match self {
            Self::Exact => None,
            Self::Rank(rank) => Some(Wanted::Rank(rank)),
            Self::Energy(share) => Some(Wanted::Energy(share)),
        }
    }
}

/// How the result names its modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// `lora_unet_….lora_down.weight` with `.alpha`.
    Kohya,
    /// `unet.….lora_A.weight`.
    Diffusers,
}

/// What the result is to be.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// How large.
    pub size: Size,
    /// The factors' type: F32, F16 or BF16.
    pub element: ElementType,
    /// Names.
    pub spelling: Spelling,
}

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct OutTensor {
    /// Its name.
    pub name: String,
    /// Its type.
    pub element: ElementType,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its bytes, row by row.
    pub bytes: Vec<u8>,
}

impl OutTensor {
    /// The same as a LoRA's file is read.
    #[must_use]
    pub fn as_read(&self) -> LoraTensor<'_> {
        LoraTensor { name: &self.name, element: self.element, shape: &self.shape, bytes: &self.bytes }
    }
}

/// How a module came out.
#[derive(Debug, Clone, PartialEq)]
pub struct BlendedModule {
    /// Its name in the file without the ending of its parts.
    pub stem: String,
    /// Its rank; 0 where it is whole, or changes a bias only.
    pub rank: usize,
    /// How far it is off the exact sum, of the length of that (Frobenius): what was cut off and what rounding took.
    pub error: f64,
}

/// A stack as one LoRA.
#[derive(Debug, Clone, PartialEq)]
pub struct Blended {
    /// The file's tensors by name.
    pub tensors: Vec<OutTensor>,
    /// Its modules by stem.
    pub modules: Vec<BlendedModule>,
    /// How far all modules together are off, of the length of all.
    pub error: f64,
    /// What became of each LoRA, in their order.
    pub sources: Vec<BlendedSource>,
}

/// What of a LoRA is in a blend.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlendedSource {
    /// Modules that are in it.
    pub blended: usize,
    /// Modules that would be and add nothing: their weights are 0.
    pub weightless: usize,
    /// Modules that would be and add nothing: their own scale is 0.
    pub scaleless: usize,
    /// Modules that the base does not have, by their names in the file.
    pub unmatched: Vec<String>,
    /// Tensors of the file that belong to no module.
    pub others: Vec<String>,
}

/// Who hears of a blend, and who may stop it.
#[expect(missing_debug_implementations, reason = "holds a function")]
pub struct BlendControl<'a> {
    /// Threads that work on it.
    pub threads: NonZeroUsize,
    /// Hears how many modules are done, and of how many.
    pub done: &'a (dyn Fn(usize, usize) + Sync),
    /// Stops it between two modules.
    pub cancel: &'a Cancel,
}

/// Makes a stack one LoRA. `base` is needed for weights by block, for names with dots, and where LoRAs name the same modules
/// otherwise.
///
/// # Errors
/// [`BlendError`].
pub fn blend(
    sources: &[Source<'_>],
    base: Option<&[BaseTensor]>,
    form: Form,
    control: &BlendControl<'_>,
) -> Result<Blended, BlendError> {
    let Plan { targets, matched } = plan(sources, base, form.spelling)?;
    let work = Work { sources, targets: &targets, form, next: AtomicUsize::new(0), held: AtomicUsize::new(0) };
    let computed = work.run(control)?;
    if computed.iter().all(|done| done.computed.change.is_none() && done.computed.bias.is_none()) {
        return Err(BlendError::Nothing);
    }
    let of_each = |(at, matched): (usize, Matched)| of_source(sources.get(at), (at, matched), &targets, &computed);
    let sources = matched.into_iter().enumerate().map(of_each).collect();
    let (mut lost, mut norm, mut tensors, mut modules) = (0.0, 0.0, Vec::new(), Vec::new());
    for (target, Done { computed, shape, .. }) in targets.iter().zip(computed) {
        lost += computed.lost * computed.lost;
        norm += computed.norm * computed.norm;
        let rank = match &computed.change {
            Some(Stored::Factors { rank, .. }) => *rank,
            _ => 0,
        };
        let error = share(computed.lost, computed.norm);
        let written = write::tensors(target, shape, computed, form)?;
        if !written.is_empty() {
            tensors.extend(written);
            modules.push(BlendedModule { stem: target.stem.clone(), rank, error });
        }
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Blended { tensors, modules, error: share(lost.sqrt(), norm.sqrt()), sources })
}

/// What became of the LoRA at this place.
fn of_source(
    source: Option<&Source<'_>>,
    (at, matched): (usize, Matched),
    targets: &[Target],
    computed: &[Done],
) -> BlendedSource {
    let of = |(target, done): (&Target, &Done)| -> Vec<bool> {
        let terms = target.terms.iter().zip(&done.adds);
        terms.filter(|(term, _)| term.sources.contains(&at)).map(|(_, adds)| *adds).collect()
    };
    let terms: Vec<bool> = targets.iter().zip(computed).flat_map(of).collect();
    let blended = terms.iter().filter(|adds| **adds).count();
    BlendedSource {
        blended,
        weightless: matched.modules.saturating_sub(terms.len()),
        scaleless: terms.len() - blended,
        unmatched: matched.unmatched,
        others: source.into_iter().flat_map(|source| source.index.others()).map(str::to_owned).collect(),
    }
}

fn share(lost: f64, norm: f64) -> f64 {
    if norm > 0.0 { lost / norm } else { 0.0 }
}

/// A module that was computed.
struct Done {
    computed: Computed,
    /// Whether each term adds something.
    adds: Vec<bool>,
    /// Dimensions of its weight, where they are known.
    shape: Option<Vec<usize>>,
}

/// Modules in computation.
struct Work<'a> {
    sources: &'a [Source<'a>],
    targets: &'a [Target],
    form: Form,
    next: AtomicUsize,
    held: AtomicUsize,
}

impl Work<'_> {
    /// Every module in the order of the targets.
    fn run(&self, control: &BlendControl<'_>) -> Result<Vec<Done>, BlendError> {
        let slots: Vec<Mutex<Option<Done>>> = self.targets.iter().map(|_| Mutex::new(None)).collect();
        let ended = std::thread::scope(|scope| {
            let workers: Vec<_> =
                (0..control.threads.get()).map(|_| scope.spawn(|| self.work(&slots, control))).collect();
            // all are waited for before any is heard
            let ended: Vec<_> =
                workers.into_iter().map(|worker| worker.join().unwrap_or(Err(BlendError::Lost))).collect();
            ended.into_iter().collect::<Result<(), BlendError>>()
        });
        ended?;
        let taken = slots.into_iter().map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner));
        taken.collect::<Option<Vec<_>>>().ok_or(BlendError::Lost)
    }

    fn work(&self, slots: &[Mutex<Option<Done>>], control: &BlendControl<'_>) -> Result<(), BlendError> {
        loop {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            let (Some(target), Some(slot)) = (self.targets.get(at), slots.get(at)) else { return Ok(()) };
            if control.cancel.is_cancelled() {
                return Err(BlendError::Cancelled);
            }
            let computed = self.compute(target).inspect_err(|_| {
                // nothing of it will be written: the others need not go on
                self.next.store(self.targets.len(), Ordering::Relaxed);
            })?;
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(computed);
            (control.done)(at + 1, self.targets.len());
        }
    }

    fn compute(&self, target: &Target) -> Result<Done, BlendError> {
        let mut terms = Vec::with_capacity(target.terms.len());
        for Summand { sources, stem, strength } in &target.terms {
            let source = sources.first().and_then(|at| self.sources.get(*at)).ok_or(BlendError::Lost)?;
            terms.push((source.name.as_str(), source.module(stem)?, *strength));
        }
        let computed = module::compute(&target.stem, &terms, (self.form.size, self.form.element))?;
        self.must_stay_small(&computed)?;
        let told = || terms.iter().find_map(|(_, module, _)| write::told_shape(module));
        // the change of a bias has no scale of its own
        let adds =
            terms.iter().map(|(_, module, _)| module.scale != 0.0 && module.changes_weight() || module.changes_bias());
        Ok(Done { shape: target.shape.clone().or_else(told), adds: adds.collect(), computed })
    }

    fn must_stay_small(&self, computed: &Computed) -> Result<(), BlendError> {
        let bytes = match &computed.change {
            Some(Stored::Factors { up, down, .. }) => up.len() + down.len(),
            Some(Stored::Whole { delta, .. }) => delta.len(),
            None => 0,
        };
        let bytes = (self.held.fetch_add(bytes, Ordering::Relaxed) + bytes) as u64;
        if bytes > LIMIT_BYTES { Err(BlendError::TooLarge { bytes, limit: LIMIT_BYTES }) } else { Ok(()) }
    }
}
