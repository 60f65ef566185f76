//! The library and its environment. Both belong to the process: ONNX Runtime refuses a second environment even after the
//! first is gone, and a second library is never loaded.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use ort::{environment::Environment, logging::LogLevel};

use crate::{error::EngineError, onnx};

/// The one environment; kept for as long as the process lives, for the reason above.
static ENVIRONMENT: Mutex<Option<Environment>> = Mutex::new(None);

/// Loads `library` unless one is loaded already, and gives the environment.
pub(super) fn open(library: &Path) -> Result<Environment, EngineError> {
    let mut environment = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(environment) = environment.as_ref() {
        return Ok(environment.clone());
    }
    let capability = onnx::capability(Some(library));
    if let Some(reason) = capability.reason {
        return Err(EngineError::Library { path: Some(library.to_owned()), reason });
    }
    let refused = |reason: String| EngineError::Library { path: Some(library.to_owned()), reason };
    let builder = ort::init_from(library).map_err(|error| refused(error.to_string()))?;
    let built = builder.with_name("modelyard").with_telemetry(false).with_logger(Arc::new(log)).build();
    let built = built.map_err(|error| refused(error.to_string()))?;
    *environment = Some(built.clone());
    Ok(built)
}

/// ONNX Runtime's own messages, under our log.
fn log(level: LogLevel, category: &str, _: &str, _: &str, message: &str) {
    match level {
        LogLevel::Verbose | LogLevel::Info => tracing::trace!(category, "onnxruntime: {message}"),
        LogLevel::Warning => tracing::debug!(category, "onnxruntime: {message}"),
        LogLevel::Error | LogLevel::Fatal => tracing::warn!(category, "onnxruntime: {message}"),
    }
}
