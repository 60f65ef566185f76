//! The names that trainers give a base's modules. Underscores are never parsed back: every spelling of every module that the
//! base has is written down, and a name of the file is looked up.

use std::collections::{BTreeMap, BTreeSet};

/// A tensor of a base under its canonical (diffusers) name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BaseTensor {
    /// `unet`, `text_encoder`, `text_encoder_2`, ….
    pub component: String,
    /// `down_blocks.0.attentions.0.proj_in.weight`.
    pub name: String,
    /// Dimensions as stored.
    pub shape: Vec<usize>,
    /// Its bytes as stored.
    pub bytes: u64,
}

/// Prefixes that say of which component a module is. Longer ones before those they begin with.
const PREFIXES: &[(&str, &[&str])] = &[
    ("lora_unet_", &["unet", "transformer"]),
    ("lora_transformer_", &["transformer"]),
    ("lora_te1_", &["text_encoder"]),
    ("lora_te2_", &["text_encoder_2"]),
    ("lora_te3_", &["text_encoder_3"]),
    ("lora_te_", &["text_encoder"]),
    ("text_encoder_2.", &["text_encoder_2"]),
    ("text_encoder_3.", &["text_encoder_3"]),
    ("text_encoder.", &["text_encoder"]),
    ("unet.", &["unet"]),
    ("transformer.", &["transformer"]),
    ("model.diffusion_model.", &["unet", "transformer"]),
    ("diffusion_model.", &["unet", "transformer"]),
    ("base_model.model.", UNNAMED),
    ("lycoris_", UNNAMED),
];
/// Where nothing says of which component a module is, the first that has it.
pub(super) const UNNAMED: &[&str] = &["unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3"];

/// Every spelling of every module of a base.
#[derive(Debug, Clone, Default)]
pub struct Spellings {
    /// By component and spelling with underscores: the module's canonical path.
    paths: BTreeMap<(String, String), String>,
    /// The original numbering of the UNet's modules.
    numbers: BTreeMap<String, String>,
}

impl Spellings {
    /// Writes the spellings down for a base with these tensors.
    #[must_use]
    pub fn of(base: &[BaseTensor]) -> Self {
        let mut paths = BTreeMap::new();
        let modules: BTreeSet<(&str, &str)> = base
            .iter()
            .filter_map(|tensor| Some((tensor.component.as_str(), tensor.name.strip_suffix(".weight")?)))
            .collect();
        let unet: BTreeSet<&str> = modules.iter().filter(|(kind, _)| *kind == "unet").map(|(_, path)| *path).collect();
        let numbered = numbered(&unet);
        for (component, path) in modules {
            let mut add = |spelling: &str| {
                let spelling = bare(&spelling.replace('.', "_")).to_owned();
                paths.entry((component.to_owned(), spelling)).or_insert_with(|| path.to_owned());
            };
            add(path);
            if component == "unet" {
                original(&numbered, path).into_iter().for_each(|spelling| add(&spelling));
            }
        }
        Self { paths, numbers: numbered }
    }

    /// The original name of a module of the UNet, where it has one.
    pub(super) fn original(&self, path: &str) -> Option<String> {
        original(&self.numbers, path)
    }

    /// The component and canonical path of the module that a stem of a LoRA file means.
    #[must_use]
    pub fn find(&self, stem: &str) -> Option<(&str, &str)> {
        let (components, rest) = components(stem);
        let spelling = normal(rest);
        let spelling = bare(&spelling);
        components.iter().find_map(|component| {
            let key = ((*component).to_owned(), spelling.to_owned());
            self.paths.get_key_value(&key).map(|((component, _), path)| (component.as_str(), path.as_str()))
        })
    }
}

/// The components that a stem may be of, and what follows its prefix.
pub(super) fn components(stem: &str) -> (&'static [&'static str], &str) {
    let found = PREFIXES.iter().find_map(|(prefix, components)| Some((*components, stem.strip_prefix(prefix)?)));
    found.unwrap_or((UNNAMED, stem))
}

/// A path as spellings are kept: attention processors are their attentions, dots are underscores.
fn normal(path: &str) -> String {
    let path = match path.split_once(".processor.") {
        Some((attention, "to_out")) => format!("{attention}.to_out.0"),
        Some((attention, rest)) => format!("{attention}.{rest}"),
        None => path.to_owned(),
    };
    // text encoders of old diffusers files: `…self_attn.to_q_lora` is `q_proj`
    let renamed =
        [("self_attn.to_q", "q"), ("self_attn.to_k", "k"), ("self_attn.to_v", "v"), ("self_attn.to_out", "out")];
    let renamed =
        renamed.iter().find_map(|(old, new)| Some(format!("{}self_attn.{new}_proj", path.strip_suffix(old)?)));
    renamed.unwrap_or(path).replace('.', "_")
}

/// A path, after the prefix of a stem, as all spellings of one naming have it.
pub(super) fn plain(path: &str) -> String {
    bare(&normal(path)).to_owned()
}

/// Text encoders are written with and without the name of their inner model.
fn bare(spelling: &str) -> &str {
    spelling.strip_prefix("text_model_").unwrap_or(spelling)
}

/// The original numbering of a UNet's modules: canonical path of the module to `input_blocks.4.1`.
fn numbered(paths: &BTreeSet<&str>) -> BTreeMap<String, String> {
    let has = |module: &str| {
        let from = format!("{module}.");
        paths.range(from.as_str()..).next().is_some_and(|path| path.starts_with(&from))
    };
    let mut numbers = BTreeMap::new();
    down(&has, &mut numbers);
    for (position, module) in ["resnets.0", "attentions.0", "resnets.1"].into_iter().enumerate() {
        let module = format!("mid_block.{module}");
        if has(&module) {
            numbers.insert(module, format!("middle_block.{position}"));
        }
    }
    up(&has, &mut numbers);
    numbers
}

fn down(has: &impl Fn(&str) -> bool, numbers: &mut BTreeMap<String, String>) {
    // the first is the input's convolution
    let mut row = 1;
    for block in (0..).map(|block| format!("down_blocks.{block}")).take_while(|block| has(block)) {
        for layer in (0..).take_while(|layer| has(&format!("{block}.resnets.{layer}"))) {
            numbers.insert(format!("{block}.resnets.{layer}"), format!("input_blocks.{row}.0"));
            if has(&format!("{block}.attentions.{layer}")) {
                numbers.insert(format!("{block}.attentions.{layer}"), format!("input_blocks.{row}.1"));
            }
            row += 1;
        }
        if has(&format!("{block}.downsamplers.0")) {
            numbers.insert(format!("{block}.downsamplers.0.conv"), format!("input_blocks.{row}.0.op"));
            row += 1;
        }
    }
}

fn up(has: &impl Fn(&str) -> bool, numbers: &mut BTreeMap<String, String>) {
    let mut row = 0;
    for block in (0..).map(|block| format!("up_blocks.{block}")).take_while(|block| has(block)) {
        let mut position = 0;
        for layer in (0..).take_while(|layer| has(&format!("{block}.resnets.{layer}"))) {
            numbers.insert(format!("{block}.resnets.{layer}"), format!("output_blocks.{row}.0"));
            position = 1;
            if has(&format!("{block}.attentions.{layer}")) {
                numbers.insert(format!("{block}.attentions.{layer}"), format!("output_blocks.{row}.1"));
                position = 2;
            }
            row += 1;
        }
        if row > 0 && has(&format!("{block}.upsamplers.0")) {
            numbers.insert(format!("{block}.upsamplers.0.conv"), format!("output_blocks.{}.{position}.conv", row - 1));
        }
    }
}

/// Parts of a ResNet in the original naming.
const RESNET: &[(&str, &str)] = &[
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
];
/// Modules outside the blocks.
const OUTSIDE: &[(&str, &str)] = &[
    ("conv_in", "input_blocks.0.0"),
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
];

/// The original spelling of a UNet's module, where it has one.
fn original(numbers: &BTreeMap<String, String>, path: &str) -> Option<String> {
    let renamed = |table: &[(&str, &str)], name: &str| {
        table.iter().find(|(canonical, _)| *canonical == name).map(|(_, original)| (*original).to_owned())
    };
    if let Some(outside) = renamed(OUTSIDE, path).or_else(|| numbers.get(path).cloned()) {
        return Some(outside);
    }
    let (module, number) = numbers
        .iter()
        .rev()
        .find(|(module, _)| path.strip_prefix(module.as_str()).is_some_and(|rest| rest.starts_with('.')))?;
    let rest = path.strip_prefix(module.as_str())?.strip_prefix('.')?;
    let rest = if module.contains(".resnets.") { renamed(RESNET, rest)? } else { rest.to_owned() };
    Some(format!("{number}.{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Vec<BaseTensor> {
        let unet = [
            "conv_in",
            "time_embedding.linear_1",
            "down_blocks.0.resnets.0.conv1",
            "down_blocks.0.resnets.1.conv1",
            "down_blocks.0.downsamplers.0.conv",
            "down_blocks.1.resnets.0.time_emb_proj",
            "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
            "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0",
            "mid_block.resnets.0.conv1",
            "mid_block.attentions.0.proj_in",
            "mid_block.resnets.1.conv2",
            "up_blocks.0.resnets.0.conv1",
            "up_blocks.0.attentions.0.proj_in",
            "up_blocks.0.upsamplers.0.conv",
            "up_blocks.1.resnets.0.conv_shortcut",
        ];
        let encoder =
            ["text_model.encoder.layers.0.self_attn.q_proj", "text_model.encoder.layers.0.self_attn.out_proj"];
        let tensor = |component: &str, path: &str| BaseTensor {
            component: component.to_owned(),
            name: format!("{path}.weight"),
            shape: vec![4, 4],
            bytes: 64,
        };
        let unet = unet.iter().map(|path| tensor("unet", path));
        let first = encoder.iter().map(|path| tensor("text_encoder", path));
        // transformers leaves the inner model's name out since 5.6
        let second = encoder.iter().map(|path| tensor("text_encoder_2", path.trim_start_matches("text_model.")));
        unet.chain(first).chain(second).collect()
    }

    #[test]
    fn every_trainer_names_the_same_module() {
        let spellings = Spellings::of(&base());
        let query = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q";
        let out = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0";
        for (stem, component, path) in [
            ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q", "unet", query),
            ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q", "unet", query),
            ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", "unet", query),
            ("diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q", "unet", query),
            ("base_model.model.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", "unet", query),
            ("lycoris_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q", "unet", query),
            ("down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_q", "unet", query),
            ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_out", "unet", out),
            ("lora_unet_input_blocks_4_0_emb_layers_1", "unet", "down_blocks.1.resnets.0.time_emb_proj"),
            ("lora_unet_input_blocks_3_0_op", "unet", "down_blocks.0.downsamplers.0.conv"),
            ("lora_unet_middle_block_1_proj_in", "unet", "mid_block.attentions.0.proj_in"),
            ("lora_unet_output_blocks_0_2_conv", "unet", "up_blocks.0.upsamplers.0.conv"),
            ("lora_unet_output_blocks_1_0_skip_connection", "unet", "up_blocks.1.resnets.0.conv_shortcut"),
            ("lora_unet_time_embed_0", "unet", "time_embedding.linear_1"),
            (
                "lora_te1_text_model_encoder_layers_0_self_attn_q_proj",
                "text_encoder",
                "text_model.encoder.layers.0.self_attn.q_proj",
            ),
            (
                "lora_te2_text_model_encoder_layers_0_self_attn_q_proj",
                "text_encoder_2",
                "encoder.layers.0.self_attn.q_proj",
            ),
            (
                "text_encoder.text_model.encoder.layers.0.self_attn.to_out",
                "text_encoder",
                "text_model.encoder.layers.0.self_attn.out_proj",
            ),
        ] {
            assert_eq!(spellings.find(stem), Some((component, path)), "{stem}");
        }
        for stem in
            ["lora_unet_down_blocks_9_x", "lora_te3_text_model_encoder_layers_0_self_attn_q_proj", "bundle_emb.x"]
        {
            assert_eq!(spellings.find(stem), None, "{stem}");
        }
    }
}
