//! Configs against the releases' tensors, and against any tensors that a config means.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Added, Config, Level, Middle};
use crate::{arch::golden, error::EngineError};

const RELEASES: [(&str, &str); 5] = [
    ("unet-sd15", "sd15"),
    ("unet-sd21", "sd21"),
    ("unet-sdxl", "sdxl"),
    ("unet-sdxl-refiner", "sdxl-refiner"),
    ("unet-distilled", "sdxl"),
];

fn sorted(mut tensors: Vec<(String, Vec<usize>)>) -> Vec<(String, Vec<usize>)> {
    tensors.sort();
    tensors
}

#[test]
fn a_config_means_the_tensors_that_diffusers_lists() {
    for (release, _) in RELEASES {
        let config = Config::from_json(&golden::config(release)).unwrap();
        assert_eq!(sorted(config.tensors()), golden::tensors(release), "{release}");
    }
}

#[test]
fn the_releases_are_inferred_from_their_tensors() {
    for (release, base) in RELEASES {
        let config = Config::from_json(&golden::config(release)).unwrap();
        let facts = golden::facts(&golden::tensors(release));
        // the projections alone tell the first family from its successors
        assert_eq!(Config::infer(&facts, None).unwrap(), config, "{release}");
        let upcast = Config { upcast_attention: base == "sd21", ..config };
        assert_eq!(Config::infer(&facts, Some(base)).unwrap(), upcast, "{release}");
    }
}

/// The configs that `modelyard dev make-models` writes beside the same tensors in a diffusers folder.
fn reduced() -> [(&'static str, &'static str, Value); 4] {
    let levels = |attends: &[bool]| {
        let block = |attends: bool, way: &str| format!("{}{way}Block2D", if attends { "CrossAttn" } else { "" });
        let down: Vec<String> = attends.iter().map(|attends| block(*attends, "Down")).collect();
        let up: Vec<String> = attends.iter().rev().map(|attends| block(*attends, "Up")).collect();
        (down, up)
    };
    let config = |attends: &[bool], own: Value| {
        let (down, up) = levels(attends);
        let channels = [32, 64, 96, 96].get(..attends.len()).unwrap().to_vec();
        let mut all = json!({ "block_out_channels": channels, "down_block_types": down, "up_block_types": up });
        all.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        all
    };
    let sd15 = json!({ "attention_head_dim": 8, "cross_attention_dim": 32 });
    let sd21 = json!({ "attention_head_dim": [2, 4, 6, 6], "cross_attention_dim": 48, "use_linear_projection": true });
    let sdxl = json!({
        "attention_head_dim": [2, 4, 6], "cross_attention_dim": 96, "use_linear_projection": true,
        "transformer_layers_per_block": [1, 1, 2], "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 112,
    });
    let refiner = json!({
        "attention_head_dim": [2, 4, 6, 6], "cross_attention_dim": 64, "use_linear_projection": true,
        "transformer_layers_per_block": [1, 2, 2, 2], "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 104,
    });
    [
        ("unet-sd15", "sd15", config(&[true, true, true, false], sd15)),
        ("unet-sd21", "sd21", config(&[true, true, true, false], sd21)),
        ("unet-sdxl", "sdxl", config(&[false, true, true], sdxl)),
        ("unet-sdxl-refiner", "sdxl-refiner", config(&[false, true, true, false], refiner)),
    ]
}

#[test]
fn reduced_models_are_inferred_as_their_folders_have_it() {
    for (map, base, json) in reduced() {
        let tensors = sorted(golden::reduced(map));
        let config = Config::from_json(&json).unwrap();
        assert_eq!(sorted(config.tensors()), tensors, "{map}");
        let upcast = Config { upcast_attention: base == "sd21", ..config };
        assert_eq!(Config::infer(&golden::facts(&tensors), Some(base)).unwrap(), upcast, "{map}");
    }
}

#[test]
fn what_is_not_built_is_refused_by_its_field() {
    let unclip = Config::from_json(&golden::config("unet-unclip")).unwrap_err();
    assert!(matches!(&unclip, EngineError::Config { field, .. } if field == "class_embed_type"), "{unclip}");
    let facts = golden::facts(&golden::tensors("unet-unclip"));
    let unclip = Config::infer(&facts, Some("sd21")).unwrap_err();
    assert!(matches!(&unclip, EngineError::Config { field, .. } if field == "class_embed_type"), "{unclip}");
    // texts of several widths cannot come in one tensor
    let uneven = Config::from_json(&golden::config("unet-uneven")).unwrap_err();
    assert!(matches!(&uneven, EngineError::Config { field, .. } if field == "cross_attention_dim"), "{uneven}");
}

#[test]
fn fields_that_change_what_is_computed_are_refused() {
    let wrong = json!({
        "act_fn": "mish", "addition_embed_type": "text_image", "attention_head_dim": 7, "attention_type": "gated",
        "block_out_channels": [], "center_input_sample": true, "class_embed_type": "timestep", "conv_in_kernel": 4,
        "cross_attention_dim": [768, 1024, 768, 768], "cross_attention_norm": "layer_norm", "downsample_padding": 0,
        "down_block_types": ["DownBlock2D", "SimpleCrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
        "dual_cross_attention": true, "encoder_hid_dim_type": "text_proj", "layers_per_block": [2, 2],
        "mid_block_only_cross_attention": true, "mid_block_scale_factor": 2, "mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "norm_num_groups": 31,
        "num_attention_heads": 8, "num_class_embeds": 10, "only_cross_attention": [true, true, true, false],
        "resnet_out_scale_factor": 1.5, "resnet_skip_time_act": true, "resnet_time_scale_shift": "scale_shift",
        "time_cond_proj_dim": 256, "time_embedding_type": "fourier", "timestep_post_act": "silu",
        "transformer_layers_per_block": [[1, 1], 1, 1, 1], "_class_name": "UNet3DConditionModel", "freq_shift": 160,
    });
    for (field, value) in wrong.as_object().unwrap() {
        let error = Config::from_json(&json!({ field: value })).unwrap_err();
        assert!(matches!(&error, EngineError::Config { field: named, .. } if named == field), "{field}: {error}");
    }
    let rows = Config::from_json(&json!({ "norm_num_groups": null })).unwrap_err();
    assert!(matches!(&rows, EngineError::Config { field, .. } if field == "norm_num_groups"), "{rows}");
}

#[test]
fn null_is_no_middle_and_fields_without_meaning_here_are_let_through() {
    let config = json!({ "mid_block_type": null, "dropout": 0.1, "sample_size": 64 });
    assert_eq!(Config::from_json(&config).unwrap().middle, Middle::Absent);
}

/// One level: channels in multiples of 32, depths per layer.
fn level(successor: bool) -> impl Strategy<Value = Level> {
    let depths = |layers: usize| prop_oneof![Just(Vec::new()), prop::collection::vec(1..4_usize, layers)];
    (1..6_usize, 1..4_usize)
        .prop_flat_map(move |(width, layers)| (Just(width), Just(layers), depths(layers), depths(layers + 1)))
        .prop_map(move |(width, layers, down, up)| {
            // 64 divides the channels of a successor's levels, 8 the others'
            let channels = if successor { width * 64 } else { width * 32 };
            Level { channels, heads: if successor { width } else { 8 }, layers, down, up }
        })
}

fn config() -> impl Strategy<Value = (Config, &'static str)> {
    any::<bool>().prop_flat_map(|successor| {
        let first = level(successor).prop_map(move |mut level| {
            // wide enough to be no reduced model
            level.channels += 128;
            level.heads += if successor { 2 } else { 0 };
            level
        });
        let middle = prop_oneof![
            (1..4_usize).prop_map(|depth| Middle::Attention { depth }),
            Just(Middle::Resnet),
            Just(Middle::Absent),
        ];
        let added = prop::option::of((1..9_usize).prop_map(|text| Added { inputs: text * 40 + 6 * 256, each: 256 }));
        let rest = prop::collection::vec(level(successor), 0..4);
        let numbers = (1..20_usize, 1..20_usize, 1..9_usize, 1..9_usize, prop::sample::select(vec![1_usize, 3, 5]));
        (first, rest, middle, added, numbers).prop_map(move |(first, rest, middle, added, numbers)| {
            let (in_channels, out_channels, context, time, kernel) = numbers;
            let config = Config {
                in_channels,
                out_channels,
                levels: [first].into_iter().chain(rest).collect(),
                middle,
                context: context * 16,
                has_linear_projection: successor,
                time_width: time * 64,
                flip_sin_to_cos: true,
                freq_shift: 0.0,
                added,
                norm_groups: 32,
                norm_eps: 1e-5,
                upcast_attention: false,
                conv_in_kernel: kernel,
                conv_out_kernel: 3,
            };
            (config, if successor { "sdxl" } else { "sd15" })
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_tensors_of_any_config_give_that_config_back((config, base) in config()) {
        let tensors = config.tensors();
        let inferred = Config::infer(&golden::facts(&tensors), Some(base));
        let attends = tensors.iter().any(|(name, _)| name.contains(".attn2."));
        if attends {
            prop_assert_eq!(inferred.unwrap(), config);
        } else {
            // without attention nothing tells the width of a text that is not looked at
            let is_refused = matches!(inferred, Err(EngineError::Config { .. }));
            prop_assert!(is_refused);
        }
    }

    #[test]
    fn no_config_panics(fields in prop::collection::btree_map("[a-z_]{4,24}|block_out_channels|layers_per_block|mid_block_type", value(), 0..6)) {
        let json = Value::Object(fields.into_iter().collect());
        if let Ok(config) = Config::from_json(&json) {
            prop_assert!(config.first_channels() > 0);
        }
    }
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        (-2.0..2.0).prop_map(Value::from),
        prop::collection::vec(-1..2000_i32, 0..5).prop_map(Value::from),
        "[A-Za-z2]{0,24}".prop_map(Value::from),
    ]
}
