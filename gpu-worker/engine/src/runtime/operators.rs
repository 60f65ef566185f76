//! Operators of ours that emitted graphs use on the CPU: linear layers over weights as they are stored.

use std::{marker::PhantomData, sync::Arc};

use half::{bf16, f16};
use linear_kernel::{Layer, Stored};
use ort::{
    operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput},
    value::{PrimitiveTensorElementType, TensorElementType},
};

use crate::{
    error::EngineError,
    graph::{OURS, linear_operator},
    tensor::ElementType,
};

/// The domain with all of them, for sessions whose operators have `threads` threads.
pub(super) fn domain(threads: usize) -> Result<Arc<OperatorDomain>, EngineError> {
    let domain = OperatorDomain::new(OURS)
        .and_then(|domain| domain.add(Linear::<f32>::new(ElementType::F32, threads)))
        .and_then(|domain| domain.add(Linear::<f16>::new(ElementType::F16, threads)))
        .and_then(|domain| domain.add(Linear::<bf16>::new(ElementType::Bf16, threads)));
    domain.map(Arc::new).map_err(EngineError::onnx("registering operators"))
}

/// A type of weights.
trait Weight: PrimitiveTensorElementType + Sync + Send + Sized + 'static {
    fn stored(values: &[Self]) -> Stored<'_>;
}

impl Weight for f32 {
    fn stored(values: &[Self]) -> Stored<'_> {
        Stored::F32(values)
    }
}

impl Weight for f16 {
    fn stored(values: &[Self]) -> Stored<'_> {
        Stored::F16(values)
    }
}

impl Weight for bf16 {
    fn stored(values: &[Self]) -> Stored<'_> {
        Stored::Bf16(values)
    }
}

/// `x · Wᵀ + b`: x \[rows, inputs\], W \[outputs, inputs\] of type `W`, perhaps b \[outputs\] → \[rows, outputs\].
struct Linear<W> {
    name: &'static str,
    threads: usize,
    _weight: PhantomData<W>,
}

impl<W> Linear<W> {
    fn new(weight: ElementType, threads: usize) -> Self {
        Self { name: linear_operator(weight).unwrap_or_default(), threads, _weight: PhantomData }
    }
}

impl<W: Weight> Operator for Linear<W> {
    type Kernel<'attr> = LinearKernel<W>;

    fn name(&self) -> &str {
        self.name
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [
            OperatorInput::required(TensorElementType::Float32),
            OperatorInput::required(W::into_tensor_element_type()),
            OperatorInput::optional(TensorElementType::Float32),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, _: &KernelContext<'attr>) -> ort::Result<Self::Kernel<'attr>> {
        Ok(LinearKernel { threads: self.threads, _weight: PhantomData })
    }
}

struct LinearKernel<W> {
    threads: usize,
    _weight: PhantomData<W>,
}

impl<W: Weight> Kernel for LinearKernel<W> {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let missing = || ort::Error::new("an input of a linear layer is not there");
        let (x, weight) = (context.input(0)?.ok_or_else(missing)?, context.input(1)?.ok_or_else(missing)?);
        let bias = if context.num_inputs()? > 2 { context.input(2)? } else { None };
        let (rows, x) = x.try_extract_tensor::<f32>()?;
        let (shape, weight) = weight.try_extract_tensor::<W>()?;
        let (&[_, width], &[outputs, inputs]) = (&**rows, &**shape) else {
            return Err(ort::Error::new("rows and matrix of a linear layer have two sides each"));
        };
        if width != inputs {
            return Err(ort::Error::new(format!("rows of {width} for a matrix of {inputs} inputs")));
        }
        let side = |side: i64| usize::try_from(side).unwrap_or(0);
        let bias = bias.as_ref().map(|bias| bias.try_extract_tensor::<f32>()).transpose()?.map(|(_, values)| values);
        let layer = Layer::new(x, (W::stored(weight), side(outputs), side(inputs)), bias).map_err(refused)?;
        let rows = i64::try_from(layer.rows()).unwrap_or(i64::MAX);
        let mut out = context.output(0, [rows, outputs])?.ok_or_else(missing)?;
        let (_, out) = out.try_extract_tensor_mut::<f32>()?;
        let mut spread = Ok(());
        let computed = layer.compute(out, self.threads, |parts, part| spread = context.par_for(parts, 0, part));
        spread.and(computed.map_err(refused))
    }
}

fn refused(error: linear_kernel::LinearError) -> ort::Error {
    ort::Error::new(error.to_string())
}
