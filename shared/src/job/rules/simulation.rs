//! A seeded simulation of the job and lease state machine.
