//! Weights as an agent holds them: read by the RAM tier into a sealed memory file in canonical form, mapped, and bound where
//! they lie.

use std::{ops::Deref, path::Path, sync::Arc};

use anyhow::Context;
use engine::{
    ElementType, Weights,
    weights::{HostMemory, Memory, Weight},
};
use gpu_worker::load_request::load_request;
use model_formats::{Inspection, inspect};
use residency::{Lease, RamTier, TierConfig, arena::ReadMap};
use serde_json::Value;
use shared::{
    db::models::ComponentRow,
    ids::{ComponentId, ModelId},
};
use tokio_util::sync::CancellationToken;

/// A component in memory.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// Its weights.
    pub weights: Weights,
    /// The model's family.
    pub base: String,
    /// Its `config.json`; none in single files.
    pub config: Option<Value>,
    /// Keeps the bytes where they are.
    _lease: Lease,
}

struct Map(ReadMap);

impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        self.0.deref()
    }
}

/// Loads a component of a model: a file, or a diffusers folder.
///
/// # Errors
/// What the reader or the loader says.
pub(crate) fn load(model: &Path, kind: &str) -> anyhow::Result<Loaded> {
    let inspection = inspect(model).with_context(|| format!("{}", model.display()))?;
    let tier = RamTier::new(TierConfig::new(u64::MAX));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let request = load_request(&row(kind), &inspection).with_context(|| format!("no {kind} in {}", model.display()))?;
    let lease = runtime.block_on(tier.acquire(request, &CancellationToken::new()))?;
    Ok(Loaded {
        weights: bound(&lease)?,
        base: inspection.base.as_str().to_owned(),
        config: config(&inspection, kind),
        _lease: lease,
    })
}

fn bound(lease: &Lease) -> anyhow::Result<Weights> {
    let memory: Arc<dyn HostMemory> = Arc::new(Map(lease.map()?));
    let mut weights = Weights::new();
    for tensor in lease.tensors() {
        let dtype = ElementType::parse(&tensor.dtype).with_context(|| format!("type {}", tensor.dtype))?;
        let begin = usize::try_from(tensor.offset)?;
        let range = begin..begin + usize::try_from(tensor.len)?;
        let memory = Memory::host(memory.clone(), range).context("a tensor outside of its component")?;
        let shape = tensor.shape.iter().map(|side| usize::try_from(*side)).collect::<Result<_, _>>()?;
        weights.insert(tensor.name.clone(), Weight { dtype, shape, memory })?;
    }
    Ok(weights)
}

/// The config of a folder's part; a folder of one component has one.
fn config(inspection: &Inspection, kind: &str) -> Option<Value> {
    let configs = inspection.metadata.get("configs")?.as_object()?;
    let alone = || configs.values().next().filter(|_| configs.len() == 1);
    configs.get(kind).or_else(alone).cloned()
}

fn row(kind: &str) -> ComponentRow {
    ComponentRow {
        id: ComponentId::generate(),
        model_id: ModelId::generate(),
        kind: kind.to_owned(),
        bytes: 0,
        param_count: 0,
        tensor_count: 0,
        dtype: String::new(),
        digest: None,
    }
}
