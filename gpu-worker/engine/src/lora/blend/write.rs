//! A module's tensors as the file has them.

use super::{
    super::file::{Change, Module},
    BlendError, Form, OutTensor, Spelling,
    module::{Computed, Stored},
    plan::Target,
};
use crate::ElementType;

/// The tensors of a module; none when it changes nothing. `shape` is that of the weight, where it is known.
pub(super) fn tensors(
    target: &Target,
    shape: Option<Vec<usize>>,
    computed: Computed,
    form: Form,
) -> Result<Vec<OutTensor>, BlendError> {
    let stem = &target.stem;
    let is_kohya = form.spelling == Spelling::Kohya;
    let must_be_kohya = |reason| match is_kohya {
        true => Ok(()),
        false => Err(BlendError::Spelling { module: stem.clone(), reason }),
    };
    let tensor = |ending: &str, shape: Vec<usize>, bytes| OutTensor {
        name: format!("{stem}{ending}"),
        element: form.element,
        shape,
        bytes,
    };
    let mut out = Vec::new();
    if let Some(bias) = computed.bias {
        must_be_kohya("it changes a bias, for which only kohya's names have a word")?;
        out.push(tensor(".diff_b", vec![bias.len() / form.element.bytes()], bias));
    }
    match computed.change {
        Some(Stored::Factors { up, down, rank, sides: [rows, columns] }) => {
            let kernel = shape.filter(|shape| shape.len() > 2 && shape.iter().skip(1).product::<usize>() == columns);
            let inputs = kernel.as_ref().map_or_else(|| vec![columns], |shape| shape.iter().skip(1).copied().collect());
            let ones = vec![1; kernel.map_or(0, |shape| shape.len() - 2)];
            let (down_name, up_name) =
                if is_kohya { (".lora_down.weight", ".lora_up.weight") } else { (".lora_A.weight", ".lora_B.weight") };
            out.push(tensor(down_name, [vec![rank], inputs].concat(), down));
            out.push(tensor(up_name, [vec![rows, rank], ones].concat(), up));
            if is_kohya {
                out.push(alpha(stem, rank));
            }
        }
        Some(Stored::Whole { delta, sides }) => {
            must_be_kohya("it is no product of thin factors; give a rank, or choose kohya's names")?;
            let shape = shape.filter(|shape| shape.iter().product::<usize>() == sides[0] * sides[1]);
            out.push(tensor(".diff", shape.unwrap_or_else(|| sides.to_vec()), delta));
        }
        None => {}
    }
    Ok(out)
}

/// Alpha is the rank: the scale is 1. In 32 bits, where every rank is exact.
fn alpha(stem: &str, rank: usize) -> OutTensor {
    #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
    let bytes = (rank as f32).to_le_bytes().to_vec();
    OutTensor { name: format!("{stem}.alpha"), element: ElementType::F32, shape: Vec::new(), bytes }
}

/// The dimensions of a module's weight where its factors tell them: those of a convolution.
pub(super) fn told_shape(module: &Module) -> Option<Vec<usize>> {
    match module.change.as_ref()? {
        Change::LowRank { up, down, mid } if down.shape.len() > 2 => {
            let window = mid.as_ref().map_or(&down.shape, |mid| &mid.shape);
            let outputs = up.shape.first().copied()?;
            Some([&[outputs, down.shape.get(1).copied()?], window.get(2..)?].concat())
        }
        Change::Whole(whole) if whole.shape.len() > 2 => Some(whole.shape.clone()),
        _ => None,
    }
}
