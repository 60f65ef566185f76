//! Values of ONNX Runtime over memory of ours, without a copy.

use std::ptr::{self, NonNull};

use ort::{
    AsPointer,
    memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType},
    value::{DynValue, TensorElementType},
};

use crate::{
    error::EngineError,
    tensor::{ElementType, Tensor, TensorData},
    weights::Weight,
};

/// Where values over our memory lie, as ONNX Runtime names it.
pub(super) struct Places {
    host: MemoryInfo<'static>,
    cuda: MemoryInfo<'static>,
    // the wrapper asks for one; memory of ours is freed by nobody but its owner
    allocator: Allocator,
}

impl Places {
    pub(super) fn new(device: i32) -> Result<Self, EngineError> {
        let info = |place, number| MemoryInfo::new(place, number, AllocatorType::Device, MemoryType::Default);
        let failed = EngineError::onnx("describing memory");
        Ok(Self {
            host: info(AllocationDevice::CPU, 0).map_err(&failed)?,
            cuda: info(AllocationDevice::CUDA, device).map_err(&failed)?,
            allocator: Allocator::default(),
        })
    }

    /// Where outputs go.
    pub(super) fn host(&self) -> &MemoryInfo<'static> {
        &self.host
    }

    /// A value over a weight.
    ///
    /// # Safety
    /// The value must not outlive the weight's owner.
    #[expect(unsafe_code, reason = "ONNX Runtime takes a bare pointer")]
    pub(super) unsafe fn weight(&self, weight: &Weight, shape: &[usize]) -> Result<DynValue, EngineError> {
        let bytes = weight.memory.bytes();
        match (weight.memory.as_cuda(), weight.memory.as_host()) {
            (Some((pointer, _)), _) => {
                let pointer = ptr::with_exposed_provenance(usize::try_from(pointer).unwrap_or(usize::MAX));
                // SAFETY: the caller keeps the owner, who keeps these bytes (`Memory::cuda`).
                unsafe { over(&self.cuda, &self.allocator, (pointer, bytes), shape, weight.dtype) }
            }
            // SAFETY: the slice is these bytes, and the caller keeps its owner.
            (None, Some(host)) => unsafe {
                over(&self.host, &self.allocator, (host.as_ptr(), bytes), shape, weight.dtype)
            },
            (None, None) => Err(EngineError::Onnx { what: "binding a weight", answer: "no memory".to_owned() }),
        }
    }

    /// A value over a host tensor.
    ///
    /// # Safety
    /// The value must not outlive the tensor.
    #[expect(unsafe_code, reason = "ONNX Runtime takes a bare pointer")]
    pub(super) unsafe fn tensor(&self, tensor: &Tensor) -> Result<DynValue, EngineError> {
        let (pointer, bytes) = raw(&tensor.data);
        // SAFETY: the tensor owns these bytes, and the caller keeps it.
        unsafe { over(&self.host, &self.allocator, (pointer, bytes), &tensor.shape, tensor.data.element()) }
    }
}

fn raw(data: &TensorData) -> (*const u8, usize) {
    fn of<T>(values: &[T]) -> (*const u8, usize) {
        (values.as_ptr().cast(), size_of_val(values))
    }
    match data {
        TensorData::F32(values) => of(values),
        TensorData::F16(values) => of(values),
        TensorData::Bf16(values) => of(values),
        TensorData::F64(values) => of(values),
        TensorData::I64(values) => of(values),
        TensorData::I32(values) => of(values),
        TensorData::U8(values) => of(values),
        TensorData::Bool(values) => of(values),
    }
}

/// A tensor value over `bytes` bytes at `pointer`.
///
/// # Safety
/// The bytes are there, and unchanged, for as long as the value or a binding of it lives.
#[expect(unsafe_code, reason = "ONNX Runtime takes a bare pointer")]
unsafe fn over(
    place: &MemoryInfo<'_>,
    allocator: &Allocator,
    (pointer, bytes): (*const u8, usize),
    shape: &[usize],
    dtype: ElementType,
) -> Result<DynValue, EngineError> {
    let shape: Vec<i64> = shape.iter().map(|side| i64::try_from(*side).unwrap_or(i64::MAX)).collect();
    let mut value = ptr::null_mut();
    // SAFETY: the library is loaded (there is a `MemoryInfo`); shape and out pointer live through the call; ONNX Runtime
    // checks that `bytes` holds the shape, and does not write to an input.
    let status = unsafe {
        (ort::api().CreateTensorWithDataAsOrtValue)(
            place.ptr(),
            pointer.cast_mut().cast(),
            bytes,
            shape.as_ptr(),
            shape.len(),
            element(dtype).into(),
            &mut value,
        )
    };
    // SAFETY: the status is the answer of the call above and is given on once.
    unsafe { ort::Error::result_from_status(status) }.map_err(EngineError::onnx("binding memory"))?;
    let Some(value) = NonNull::new(value) else {
        return Err(EngineError::Onnx { what: "binding memory", answer: "no value came back".to_owned() });
    };
    // SAFETY: the value is ours alone; the wrapper releases it once.
    Ok(unsafe { DynValue::from_ptr(value, Some(allocator)) })
}

/// ONNX Runtime's name of a type.
pub(super) fn element(dtype: ElementType) -> TensorElementType {
    match dtype {
        ElementType::F32 => TensorElementType::Float32,
        ElementType::F16 => TensorElementType::Float16,
        ElementType::Bf16 => TensorElementType::Bfloat16,
        ElementType::F64 => TensorElementType::Float64,
        ElementType::F8E4M3 => TensorElementType::Float8E4M3FN,
        ElementType::F8E5M2 => TensorElementType::Float8E5M2,
        ElementType::I64 => TensorElementType::Int64,
        ElementType::I32 => TensorElementType::Int32,
        ElementType::I16 => TensorElementType::Int16,
        ElementType::I8 => TensorElementType::Int8,
        ElementType::U8 => TensorElementType::Uint8,
        ElementType::Bool => TensorElementType::Bool,
    }
}
