//! The device layer over scripted stand-ins for the vendor's libraries, as far as that goes without the hardware.

mod nvml;
mod support;
