//! Whether text encoders belong before a UNet: their states stand beside each other in the width that it attends to, and what
//! it takes beside is as wide as the last one's pooled state.

use crate::arch::{clip, unet2d};

/// How many numbers of sizes a UNet may take beside the pooled state: SDXL's refiner five, SDXL six.
const NUMBERS: [usize; 2] = [5, 6];

/// Why these encoders cannot stand before this UNet; none when they can.
#[must_use]
pub fn width_mismatch(encoders: &[(&str, &clip::Config)], unet: &unet2d::Config) -> Option<String> {
    let width: usize = encoders.iter().map(|(_, config)| config.width).sum();
    if width != unet.context {
        let each: Vec<String> = encoders.iter().map(|(kind, config)| format!("`{kind}` {}", config.width)).collect();
        let context = unet.context;
        return Some(format!("the states of {} are {width} wide, the UNet attends to {context}", each.join(" and ")));
    }
    let (added, (kind, last)) = unet.added.as_ref().zip(encoders.last())?;
    let pooled = last.projection.unwrap_or(last.width);
    let fits = NUMBERS.iter().any(|numbers| numbers * added.each + pooled == added.inputs);
    (!fits).then(|| {
        let inputs = added.inputs;
        format!(
            "the pooled state of `{kind}` is {pooled} wide, which the {inputs} added inputs of the UNet do not hold"
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn encoder(width: usize, projection: Option<usize>) -> clip::Config {
        let mut config = clip::Config::from_json(
            &json!({
                "vocab_size": 64, "hidden_size": width, "intermediate_size": 8, "num_hidden_layers": 1,
                "num_attention_heads": 1, "max_position_embeddings": 8, "hidden_act": "quick_gelu",
            }),
            &Default::default(),
        )
        .unwrap();
        config.projection = projection;
        config
    }

    fn unet(context: usize, added: Option<(usize, usize)>) -> unet2d::Config {
        let mut config = unet2d::Config::from_json(&json!({
            "_class_name": "UNet2DConditionModel", "block_out_channels": [32], "layers_per_block": 1,
            "down_block_types": ["CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D"],
            "cross_attention_dim": context, "attention_head_dim": 8, "in_channels": 4, "out_channels": 4,
            "norm_num_groups": 8,
        }))
        .unwrap();
        config.added = added.map(|(inputs, each)| unet2d::Added { inputs, each });
        config
    }

    #[test]
    fn states_and_the_pooled_one_have_to_be_as_wide_as_the_unet_takes_them() {
        let (small, large) = (encoder(16, None), encoder(24, Some(20)));
        let pair = [("text_encoder", &small), ("text_encoder_2", &large)];
        assert_eq!(width_mismatch(&pair, &unet(40, Some((6 * 8 + 20, 8)))), None);
        assert_eq!(width_mismatch(&pair[..1], &unet(16, None)), None);
        let narrow = width_mismatch(&pair[..1], &unet(40, None)).unwrap();
        assert!(narrow.contains("16 wide") && narrow.contains("40"), "{narrow}");
        let pooled = width_mismatch(&pair, &unet(40, Some((6 * 8 + 24, 8)))).unwrap();
        assert!(pooled.contains("20 wide"), "{pooled}");
    }
}
