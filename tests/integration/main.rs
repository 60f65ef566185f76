//! Stories over real processes with private stores. Modules are named after what they prove; tests that carry a
//! guarantee's number prove that guarantee (README, *Guarantees*).

mod main_job;
mod support;
