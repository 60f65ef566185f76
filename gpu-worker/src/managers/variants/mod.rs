//! Variants: copies of components with changed tensors, on the device of their base. A variant is made once, found again by
//! its key, and leaves by the policy of the device like any other copy; this book says what each one is. It dies with the
//! runner's process, as the copies do.

mod book;
mod bound;
mod ensure;
mod foresee;
mod metrics;
mod tries;

pub use book::{Variant, Variants};
pub use ensure::{Made, Path, Recipe, Wanted, ensure, find, gone, lease_cached, lease_whole, use_for, whole};
pub use foresee::{Trimmed, Way, Wish, foresee};
pub use metrics::{Check, VariantMetrics};
pub use tries::{Try, base_stays};
