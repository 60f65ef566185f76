//! LoRAs against the parts of a model: what each would change, refusals before anything is changed, and the changed tensors of
//! a whole stack. Pure but for [`read`], which looks at bytes that are in RAM already.

mod blocks;
mod matched;
mod memo;
mod misfit;
mod plan;
mod read;
mod settings;

pub use blocks::{UnknownBlock, check_blocks};
pub use matched::{Matched, Touch, Unused};
pub use memo::Memo;
pub use misfit::{misfit, of_family, other_family, refusal};
pub use plan::{Applied, Idle, NO_MODULE, PartPlan, SCALED_TO_ZERO, StackPlan, WEIGHTLESS, plan};
pub use read::{base_tensors, identity, read, shapes, tensors};
pub use settings::{Settings, SettingsError, settings};
