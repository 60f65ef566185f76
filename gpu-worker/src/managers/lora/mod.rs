//! LoRAs against the parts of a model: what each would change, refusals before anything is changed, and the changed tensors of
//! a whole stack. Pure but for [`read`], which looks at bytes that are in RAM already.

mod blocks;
mod matched;
mod memo;
mod plan;
mod read;

pub use blocks::{UnknownBlock, check_blocks};
pub use matched::{Matched, Touch};
pub use memo::Memo;
pub use plan::{Applied, Idle, PartPlan, StackPlan, plan};
pub use read::{base_tensors, identity, read, settings, shapes, tensors};
