//! What may be called: exact module and name, and what each would give. Everything else is refused.

use super::value::Global;
use crate::dtype::Dtype;

/// What a known callee makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Callee {
    /// An ordered dict: empty or of pairs.
    OrderedDict,
    /// An empty dict, list or tuple when called without arguments.
    Dict,
    List,
    /// A tuple of its one argument.
    Size,
    Tensor(Rebuild),
    /// The tensor that is its first argument.
    Parameter,
    ParameterDict,
    /// Something without weights.
    Opaque,
}

/// The versions of the function that makes a tensor of a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rebuild {
    V1,
    V2,
    V3,
}

/// The callee of this global, if it is allowed.
pub(super) fn callee(global: &Global) -> Option<Callee> {
    Some(match (global.module.as_str(), global.name.as_str()) {
        ("collections", "OrderedDict") => Callee::OrderedDict,
        ("torch._utils", "_rebuild_tensor") => Callee::Tensor(Rebuild::V1),
        ("torch._utils", "_rebuild_tensor_v2") => Callee::Tensor(Rebuild::V2),
        ("torch._utils", "_rebuild_tensor_v3") => Callee::Tensor(Rebuild::V3),
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state")
        | ("torch.nn.parameter", "Parameter") => Callee::Parameter,
        ("torch", "Size") => Callee::Size,
        ("torch.nn.modules.container", "ParameterDict") => Callee::ParameterDict,
        ("__builtin__" | "builtins", "dict") => Callee::Dict,
        ("__builtin__" | "builtins", "list") => Callee::List,
        ("__builtin__" | "builtins", "set" | "frozenset" | "tuple" | "bytearray")
        | ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar" | "_reconstruct")
        | ("numpy", "dtype" | "ndarray")
        | ("_codecs", "encode")
        | ("argparse", "Namespace")
        | ("pytorch_lightning.utilities.parsing" | "lightning.pytorch.utilities.parsing", "AttributeDict")
        | ("lightning_fabric.utilities.data" | "lightning.fabric.utilities.data", "AttributeDict") => Callee::Opaque,
        _ => return None,
    })
}

/// The element type of a storage class; `torch.storage.UntypedStorage` counts bytes.
pub(super) fn storage_dtype(global: &Global) -> Option<Dtype> {
    if global.module == "torch.storage" && matches!(global.name.as_str(), "UntypedStorage" | "_UntypedStorage") {
        return Some(Dtype::U8);
    }
    if global.module != "torch" {
        return None;
    }
    Some(match global.name.as_str() {
        "DoubleStorage" => Dtype::F64,
        "FloatStorage" => Dtype::F32,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::Bf16,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" | "UntypedStorage" => Dtype::U8,
        "BoolStorage" => Dtype::Bool,
        "ComplexFloatStorage" => Dtype::C64,
        _ => return None,
    })
}

/// The element type that a tensor over an untyped storage names.
pub(super) fn tensor_dtype(global: &Global) -> Option<Dtype> {
    if global.module != "torch" {
        return None;
    }
    Some(match global.name.as_str() {
        "float64" => Dtype::F64,
        "float32" => Dtype::F32,
        "float16" => Dtype::F16,
        "bfloat16" => Dtype::Bf16,
        "float8_e4m3fn" => Dtype::F8E4M3,
        "float8_e5m2" => Dtype::F8E5M2,
        "float8_e4m3fnuz" => Dtype::F8E4M3Fnuz,
        "float8_e5m2fnuz" => Dtype::F8E5M2Fnuz,
        "float8_e8m0fnu" => Dtype::F8E8M0,
        "int64" => Dtype::I64,
        "int32" => Dtype::I32,
        "int16" => Dtype::I16,
        "int8" => Dtype::I8,
        "uint64" => Dtype::U64,
        "uint32" => Dtype::U32,
        "uint16" => Dtype::U16,
        "uint8" => Dtype::U8,
        "bool" => Dtype::Bool,
        "complex64" => Dtype::C64,
        _ => return None,
    })
}
