//! What one tensor of a LoRA file is to its module, told from the end of its name.

/// A part of a module's change. Shapes are those of the file formats; r is the rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Part {
    /// `[r, in]` or `[r, in, kh, kw]`.
    Down,
    /// `[out, r]` or `[out, r, 1, 1]`.
    Up,
    /// The core of a convolution's CP form, `[r, r, kh, kw]`.
    Mid,
    /// The scale's numerator.
    Alpha,
    /// DoRA's magnitudes.
    Magnitude,
    /// LoHa: `[out, r]`, or `[r, out]` beside a core.
    HadaW1A,
    /// LoHa: `[r, in·kh·kw]`.
    HadaW1B,
    /// LoHa, second product.
    HadaW2A,
    /// LoHa, second product.
    HadaW2B,
    /// LoHa core `[r, r, kh, kw]`.
    HadaT1,
    /// LoHa core of the second product.
    HadaT2,
    /// LoKr: first matrix, whole.
    LokrW1,
    /// LoKr: first matrix as a product.
    LokrW1A,
    /// LoKr: first matrix as a product.
    LokrW1B,
    /// LoKr: second matrix, whole.
    LokrW2,
    /// LoKr: second matrix as a product.
    LokrW2A,
    /// LoKr: second matrix as a product.
    LokrW2B,
    /// LoKr core `[r, r, kh, kw]`.
    LokrT2,
    /// The whole change of a weight.
    Diff,
    /// The whole change of a bias.
    DiffB,
    /// Of a flavour that is not computed here.
    Refused(&'static str),
}

/// What the names of PEFT's magnitudes hold, and those of no other trainer.
pub(super) const PEFTS_MAGNITUDE: &str = ".lora_magnitude_vector";

/// PEFT's `lora_bias=True`: the second factor adds a bias of its own to the layer's output.
const WITH_BIAS: &str = "LoRA with a bias";

/// Endings of names; longer ones before those they end with.
const ENDINGS: &[(&str, Part)] = &[
    (".lora_down.weight", Part::Down),
    (".lora_up.weight", Part::Up),
    (".lora_mid.weight", Part::Mid),
    (".lora_A.weight", Part::Down),
    (".lora_B.weight", Part::Up),
    (".lora.down.weight", Part::Down),
    (".lora.up.weight", Part::Up),
    (".lora_linear_layer.down.weight", Part::Down),
    (".lora_linear_layer.up.weight", Part::Up),
    ("_lora.down.weight", Part::Down),
    ("_lora.up.weight", Part::Up),
    (".alpha", Part::Alpha),
    (".dora_scale", Part::Magnitude),
    (".lora_magnitude_vector", Part::Magnitude),
    (".lora_magnitude_vector.weight", Part::Magnitude),
    (".hada_w1_a", Part::HadaW1A),
    (".hada_w1_b", Part::HadaW1B),
    (".hada_w2_a", Part::HadaW2A),
    (".hada_w2_b", Part::HadaW2B),
    (".hada_t1", Part::HadaT1),
    (".hada_t2", Part::HadaT2),
    (".lokr_w1_a", Part::LokrW1A),
    (".lokr_w1_b", Part::LokrW1B),
    (".lokr_w1", Part::LokrW1),
    (".lokr_w2_a", Part::LokrW2A),
    (".lokr_w2_b", Part::LokrW2B),
    (".lokr_w2", Part::LokrW2),
    (".lokr_t2", Part::LokrT2),
    (".diff_b", Part::DiffB),
    (".diff", Part::Diff),
    (".lora_B.bias", Part::Refused(WITH_BIAS)),
    (".oft_blocks", Part::Refused("OFT")),
    (".oft_diag", Part::Refused("OFT")),
    (".oft_R.weight", Part::Refused("OFT")),
    (".a1.weight", Part::Refused("GLoRA")),
    (".a2.weight", Part::Refused("GLoRA")),
    (".b1.weight", Part::Refused("GLoRA")),
    (".b2.weight", Part::Refused("GLoRA")),
    (".on_input", Part::Refused("IA³")),
    (".ia3_l", Part::Refused("IA³")),
    (".w_norm", Part::Refused("trained norms")),
    (".b_norm", Part::Refused("trained norms")),
    (".set_weight", Part::Refused("replaced weights")),
    (".reshape_weight", Part::Refused("reshaped weights")),
];

/// PEFT writes the adapter's name between the factor's and the ending: `lora_A.default.weight`.
const NAMED: &[(&str, Part)] =
    &[(".lora_A.", Part::Down), (".lora_B.", Part::Up), (".lora_magnitude_vector.", Part::Magnitude)];

/// The same for the biases that such factors may have.
const BIASED: &[(&str, Part)] = &[(".lora_B.", Part::Refused(WITH_BIAS))];

/// The stem of a module and the part that a tensor of this name is; none for what belongs to no module.
pub(super) fn split(name: &str) -> Option<(&str, Part)> {
    let plain = ENDINGS.iter().find_map(|(ending, part)| Some((name.strip_suffix(ending)?, *part)));
    plain.or_else(|| named(name)).filter(|(stem, _)| !stem.is_empty())
}

fn named(name: &str) -> Option<(&str, Part)> {
    let (name, parts) = match name.strip_suffix(".bias") {
        Some(biased) => (biased, BIASED),
        None => (name.strip_suffix(".weight").unwrap_or(name), NAMED),
    };
    let (front, adapter) = name.rsplit_once('.')?;
    let ends = |(marker, part): &(&'static str, Part)| {
        let stem = front.strip_suffix(marker.strip_suffix('.')?)?;
        (!adapter.is_empty()).then_some((stem, *part))
    };
    parts.iter().find_map(ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layout_names_its_factors() {
        for (name, stem, part) in [
            ("lora_unet_a_b.lora_down.weight", "lora_unet_a_b", Part::Down),
            ("unet.a.b.lora_B.weight", "unet.a.b", Part::Up),
            ("base_model.model.a.lora_A.default.weight", "base_model.model.a", Part::Down),
            ("a.lora_magnitude_vector.other.weight", "a", Part::Magnitude),
            ("a.attn1.processor.to_q_lora.down.weight", "a.attn1.processor.to_q", Part::Down),
            ("a.q_proj.lora_linear_layer.up.weight", "a.q_proj", Part::Up),
            ("a.lokr_w1", "a", Part::LokrW1),
            ("a.lokr_w1_b", "a", Part::LokrW1B),
            ("a.diff_b", "a", Part::DiffB),
            ("a.oft_blocks", "a", Part::Refused("OFT")),
            ("unet.a.lora_B.bias", "unet.a", Part::Refused("LoRA with a bias")),
            ("base_model.model.a.lora_B.default.bias", "base_model.model.a", Part::Refused("LoRA with a bias")),
        ] {
            assert_eq!(split(name), Some((stem, part)), "{name}");
        }
        for name in ["a.weight", "a.bias", ".alpha", "lora_A", "", "a.lora_A."] {
            assert_eq!(split(name), None, "{name}");
        }
    }
}
