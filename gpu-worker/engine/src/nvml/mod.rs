//! The vendor's management library: what devices are, how they stand, and what has gone wrong with them.
//!
//! A call into this library may hang for ever when a driver is ill, so nobody waits for one. Two threads own a library
//! each: one reads all figures once a second, the other waits for events. Both note which call they are in. Whoever
//! wants to know looks at what they left behind and how old it is ([`Monitor::view`]): a call that is out for too long
//! makes the library `unresponsive`. A hung thread is left alone, and none is started beside it.
//!
//! ```text
//!  figures thread ─▶ latest figures, the call it is in ─┐
//!                                                        ├─▶ view(now) ─▶ standing of the library, condition of a device
//!  events thread  ─▶ events, the call it is in ─────────┘
//! ```

mod condition;
mod events;
mod figures;
mod library;
mod monitor;
mod state;
mod xid;

pub use condition::{Condition, condition};
pub use figures::{DeviceFault, EccErrors, Identity, MigInstance, NvmlDevice, NvmlFigures, NvmlMemory, NvmlProcess};
pub use library::{CODES as NVML_ERROR_CODES, THROTTLE_REASONS};
pub use monitor::{Monitor, MonitorOptions};
pub use state::{NvmlEvent, NvmlView, Standing};
pub use xid::{Incident, Verdict, judge};
