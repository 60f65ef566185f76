//! A LoRA from the RAM tier as the algebra takes it, and the tensors of what it is applied to, from headers.

use std::{collections::BTreeMap, fs::File, io::Read, path::Path};

use engine::{
    ElementType,
    lora::{AdapterSettings, BaseTensor, Lora, LoraError, LoraTensor},
};
use model_formats::Inspection;
use residency::Lease;
use serde_json::{Map, Value};
use shared::db::models::ComponentRow;

use crate::load_request::load_request;

/// Longest text of an adapter's settings.
const SETTINGS_MAX: u64 = 1 << 20;
/// Components that have adapters of their own.
const ADAPTED: [&str; 5] = ["unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3"];

/// The canonical tensors of a component, under the kind that it is used as.
pub fn base_tensors(row: &ComponentRow, used_as: &str, inspection: &Inspection) -> Vec<BaseTensor> {
    let Some(request) = load_request(row, inspection) else { return Vec::new() };
    let plain = request.tensors.iter().map(|tensor| (&tensor.name, &tensor.shape, tensor.end - tensor.begin));
    let gathered =
        request.gathered.iter().map(|tensor| (&tensor.name, &tensor.shape, tensor.checked_bytes().unwrap_or(0)));
    let tensor = |(name, shape, bytes): (&String, &Vec<u64>, u64)| BaseTensor {
        component: used_as.to_owned(),
        name: name.clone(),
        shape: shape.iter().map(|side| usize::try_from(*side).unwrap_or(usize::MAX)).collect(),
        bytes,
    };
    plain.chain(gathered).map(tensor).collect()
}

/// Reads a LoRA whose bytes are these.
///
/// # Errors
/// The first thing that is wrong with its tensors.
pub fn read(lease: &Lease, bytes: &[u8], settings: &BTreeMap<String, AdapterSettings>) -> Result<Lora, LoraError> {
    Lora::read(&tensors(lease, bytes, &shapes(lease))?, settings)
}

/// The dimensions of a component's tensors, in their order.
pub fn shapes(lease: &Lease) -> Vec<Vec<usize>> {
    let shape = |sides: &[u64]| sides.iter().map(|side| usize::try_from(*side).unwrap_or(usize::MAX)).collect();
    lease.tensors().iter().map(|tensor| shape(&tensor.shape)).collect()
}

/// A component's tensors as the algebra takes them; `bytes` are those of the lease, `shapes` as [`shapes`] gives them.
///
/// # Errors
/// The first tensor that is none of a LoRA's.
pub fn tensors<'a>(
    lease: &'a Lease,
    bytes: &'a [u8],
    shapes: &'a [Vec<usize>],
) -> Result<Vec<LoraTensor<'a>>, LoraError> {
    let mut tensors = Vec::with_capacity(shapes.len());
    for (tensor, shape) in lease.tensors().iter().zip(shapes) {
        let wrong = |reason: String| LoraError::Tensor { tensor: tensor.name.clone(), reason };
        let element = ElementType::parse(&tensor.dtype).ok_or_else(|| wrong(format!("stored as {}", tensor.dtype)))?;
        let range = usize::try_from(tensor.offset).ok().zip(usize::try_from(tensor.offset + tensor.len).ok());
        let bytes =
            range.and_then(|(begin, end)| bytes.get(begin..end)).ok_or_else(|| wrong("cut short".to_owned()))?;
        tensors.push(LoraTensor { name: &tensor.name, element, shape, bytes });
    }
    Ok(tensors)
}

/// What stands beside the factors: in the file's own metadata as diffusers writes it, or in PEFT's file in the same folder.
///
/// # Errors
/// What the system answers; a text that is no JSON.
pub fn settings(inspection: &Inspection) -> std::io::Result<BTreeMap<String, AdapterSettings>> {
    let told = inspection.metadata.get("lora_adapter_metadata").and_then(Value::as_str);
    let told: Option<Map<String, Value>> = told.and_then(|text| serde_json::from_str(text).ok());
    if let Some(told) = told {
        let of = |component: &str| Some((component.to_owned(), AdapterSettings::from_json(&told, component)?));
        return Ok(ADAPTED.iter().filter_map(|component| of(component)).collect());
    }
    let file = inspection.files.first().map(|file| Path::new(&file.path));
    let beside = file.filter(|file| file.file_stem().is_some_and(|stem| stem == "adapter_model"));
    let Some(beside) = beside.and_then(Path::parent).map(|folder| folder.join("adapter_config.json")) else {
        return Ok(BTreeMap::new());
    };
    let text = match File::open(&beside) {
        Ok(file) => std::io::read_to_string(file.take(SETTINGS_MAX))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let told: Map<String, Value> = serde_json::from_str(&text)?;
    let settings = AdapterSettings::from_json(&told, "");
    Ok(settings.map(|settings| (String::new(), settings)).into_iter().collect())
}

/// Equal for LoRAs that change a base in the same way: the digest of the tensors, and of the settings where there are any,
/// because these are no tensors and scale the factors all the same.
pub fn identity(digest: &str, settings: &BTreeMap<String, AdapterSettings>) -> String {
    if settings.is_empty() {
        return digest.to_owned();
    }
    let mut hasher = blake3::Hasher::new();
    for (component, of) in settings {
        hasher.update(format!("{component:?} {:?} {} {}\n", of.alpha, of.rank_stabilised, of.transposed).as_bytes());
        for (path, alpha) in &of.alphas {
            hasher.update(format!("{path:?} {alpha:?}\n").as_bytes());
        }
    }
    format!("{digest}+{}", hasher.finalize().to_hex())
}
