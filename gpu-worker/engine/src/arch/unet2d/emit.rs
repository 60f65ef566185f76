//! The graph of a UNet: down, middle, up.

use super::{
    blocks::Blocks,
    config::{Config, Level, Middle},
    embed,
};
use crate::{
    error::EngineError,
    graph::{
        Dim, Emitted, Graph, Provider, StorageTypes, V,
        layers::{concat, silu},
    },
    tensor::ElementType,
    weights::TensorFacts,
};

impl Config {
    /// Emits the graph for weights stored like `storage`, computing in `compute`.
    ///
    /// Inputs, F32: `sample` \[batch, `in_channels`, height, width\]; `timestep` \[1\]; `encoder_hidden_states` \[batch,
    /// tokens, context\]; with [`Config::added`] also `text_embeds` \[batch, text\] and `time_ids` \[batch, numbers\].
    /// Output, F32: `out_sample` \[batch, `out_channels`, height, width\].
    ///
    /// # Errors
    /// When the weights lack a tensor or have it in another shape.
    pub fn emit(
        &self,
        provider: Provider,
        compute: ElementType,
        storage: &dyn StorageTypes,
    ) -> Result<Emitted, EngineError> {
        let mut graph = Graph::new("unet2d", provider, storage);
        graph.set_compute(compute);
        self.build(&mut graph, storage);
        graph.finish()
    }

    /// Names and shapes of the tensors that it has.
    #[must_use]
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let nothing = TensorFacts::default();
        let mut graph = Graph::new("unet2d", Provider::Cpu, &nothing);
        self.build(&mut graph, &nothing);
        graph.slots().iter().map(|slot| (slot.name.clone(), slot.stored.clone())).collect()
    }

    fn build(&self, g: &mut Graph<'_>, storage: &dyn StorageTypes) {
        let sample = g.image_input("sample", self.in_channels);
        let time = embed::time(g, self);
        let text = [Dim::Free("batch"), Dim::Free("tokens"), Dim::Fixed(self.context)];
        let text = g.input("encoder_hidden_states", ElementType::F32, &text);
        let text = g.to_compute(text);
        let time = embed::added(g, self, time);
        // every resnet takes the activated embedding
        let time = silu(g, time);
        let mut blocks = Blocks { g, storage, config: self, time, text };
        let prediction = blocks.unet(sample);
        g.output("out_sample", prediction);
    }
}

/// A value on its way through the levels, with its channels.
#[derive(Clone, Copy)]
struct State {
    value: V,
    channels: usize,
}

impl Blocks<'_, '_> {
    fn unet(&mut self, sample: V) -> V {
        let config = self.config;
        let first = config.first_channels();
        let sample = self.conv(sample, "conv_in", config.in_channels, first, config.conv_in_kernel, 1);
        let mut state = State { value: sample, channels: first };
        let mut skips = vec![state];
        for (number, level) in config.levels.iter().enumerate() {
            state = self.down(state, number, level, &mut skips);
        }
        state = self.middle(state);
        for (number, level) in config.levels.iter().rev().enumerate() {
            state = self.up(state, number, level, &mut skips);
        }
        let normed = self.norm(state.value, "conv_norm_out", state.channels, config.norm_eps);
        let active = silu(self.g, normed);
        self.conv(active, "conv_out", state.channels, config.out_channels, config.conv_out_kernel, 1)
    }

    fn down(&mut self, mut state: State, number: usize, level: &Level, skips: &mut Vec<State>) -> State {
        let path = format!("down_blocks.{number}");
        for layer in 0..level.layers {
            let value = self.resnet(state.value, &format!("{path}.resnets.{layer}"), state.channels, level.channels);
            state = State { value, channels: level.channels };
            state.value = self.transformers(value, &path, layer, level, &level.down);
            skips.push(state);
        }
        if number.saturating_add(1) < self.config.levels.len() {
            let path = format!("{path}.downsamplers.0.conv");
            state.value = self.conv(state.value, &path, state.channels, state.channels, 3, 2);
            skips.push(state);
        }
        state
    }

    fn middle(&mut self, state: State) -> State {
        let Some(level) = self.config.levels.last() else { return state };
        let channels = state.channels;
        let mut value = state.value;
        match self.config.middle {
            Middle::Absent => return state,
            Middle::Resnet => value = self.resnet(value, "mid_block.resnets.0", channels, channels),
            Middle::Attention { depth } => {
                value = self.resnet(value, "mid_block.resnets.0", channels, channels);
                value = self.transformers(value, "mid_block", 0, level, &[depth]);
                value = self.resnet(value, "mid_block.resnets.1", channels, channels);
            }
        }
        State { value, channels }
    }

    fn up(&mut self, mut state: State, number: usize, level: &Level, skips: &mut Vec<State>) -> State {
        let path = format!("up_blocks.{number}");
        for layer in 0..=level.layers {
            let Some(skip) = skips.pop() else { return state };
            let joined = concat(self.g, &[state.value, skip.value], 1);
            let inputs = state.channels.saturating_add(skip.channels);
            let value = self.resnet(joined, &format!("{path}.resnets.{layer}"), inputs, level.channels);
            state = State { value, channels: level.channels };
            state.value = self.transformers(value, &path, layer, level, &level.up);
        }
        if let Some(next) = skips.last() {
            let value = self.upsample(state.value, next.value);
            let path = format!("{path}.upsamplers.0.conv");
            state.value = self.conv(value, &path, state.channels, state.channels, 3, 1);
        }
        state
    }
}
