//! LoRA files and their algebra: what a file holds, which tensors of a base it changes, and the changed tensors.
//!
//! A base is never written to. A changed tensor is computed from the base's bytes in 32-bit floats, summed over the whole
//! stack in one order that does not depend on how the stack was written down, and rounded once to the base's own type. So
//! the same stack always gives the same bytes, and without a stack the base is what it was.
//!
//! Formulas: LoRA (arXiv 2106.09685), LoHa (FedPara, arXiv 2108.06098), LoKr and conv variants (LyCORIS, arXiv
//! 2309.14859), DoRA (arXiv 2402.09353).

pub mod blend;
mod change;
#[cfg(test)]
mod damaged;
mod dense;
mod estimate;
mod file;
mod index;
mod kernel;
mod matching;
mod merge;
mod parallel;
mod part;
mod pattern;
mod settings;
mod spelling;
mod stack;
#[cfg(test)]
mod tests;
mod variant;

pub(crate) use change::{Added, Stored, matrix};
pub(crate) use dense::Delta;
pub use estimate::estimate;
pub use file::{Lora, LoraError, LoraTensor, Module};
pub use index::{LoraIndex, ScaledBeside, scaled_beside};
pub use matching::{Fit, Mismatch, Report, match_base};
pub use merge::{MergeError, merge, merge_tensor};
pub use parallel::Failed;
pub(crate) use parallel::{Sink, Trouble, carry_out};
pub use pattern::{BadPattern, PathPattern};
pub use settings::{AdapterDocument, AdapterSettings, SettingsError};
pub use spelling::{BaseTensor, Spellings};
pub use stack::{BlockWeights, Entry, Stack};
pub use variant::{Change, Made, MergeControl, Place, VariantError, VariantTensor};
pub(crate) use variant::{added, modules, tasks_on_host};
