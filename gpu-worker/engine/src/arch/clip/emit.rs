//! The graph of a CLIP text encoder.

use super::config::{Activation, Config, PROJECTION};
use crate::{
    error::EngineError,
    graph::{
        Attr, Dim, Emitted, Graph, Provider, StorageTypes, V,
        layers::{add, attention_with, concat, gelu, gemm, layer_norm, linear, quick_gelu, unsqueeze},
    },
    tensor::ElementType,
    weights::TensorFacts,
};

const EMBEDDINGS: &str = "text_model.embeddings";
const FINAL_NORM: &str = "text_model.final_layer_norm";

impl Config {
    /// Emits the graph for weights stored like `storage`, computing in `compute`.
    ///
    /// Inputs: `input_ids` I64 \[batch, positions\]; `end` I64 \[batch, 1\], where the pooled state is; `layer` I64
    /// \[1\], whose states are asked for (0: the embeddings, `layers`: the last). Outputs, F32: `last` \[batch, positions,
    /// width\], the last layer's states after the final norm; `hidden`, those of the layer that was asked for, without
    /// it; `normed`, the same with it; `pooled` \[batch, width\]; `projected` \[batch, projection\], where there is one.
    /// One graph serves every layer: clip-skip needs no session of its own.
    ///
    /// # Errors
    /// When the weights lack a tensor or have it in another shape.
    pub fn emit(
        &self,
        provider: Provider,
        compute: ElementType,
        storage: &dyn StorageTypes,
    ) -> Result<Emitted, EngineError> {
        let mut graph = Graph::new("clip", provider, storage);
        graph.set_compute(compute);
        self.build(&mut graph);
        graph.finish()
    }

    /// Names and shapes of the tensors that it has.
    #[must_use]
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let nothing = TensorFacts::default();
        let mut graph = Graph::new("clip", Provider::Cpu, &nothing);
        self.build(&mut graph);
        graph.slots().iter().map(|slot| (slot.name.clone(), slot.stored.clone())).collect()
    }

    fn build(&self, g: &mut Graph<'_>) {
        let (ids, end, layer) = self.inputs(g);
        let mut x = self.embed(g, ids);
        let mut states = vec![x];
        for number in 0..self.layers {
            x = self.layer(g, x, &format!("text_model.encoder.layers.{number}"));
            states.push(x);
        }
        let last = layer_norm(g, x, FINAL_NORM, self.width, self.norm_eps);
        g.output("last", last);
        let hidden = select(g, &states, layer);
        g.output("hidden", hidden);
        let normed = layer_norm(g, hidden, FINAL_NORM, self.width, self.norm_eps);
        g.output("normed", normed);
        let pooled = g.op("GatherND", "", &[last, end], &[Attr::Int("batch_dims", 1)]);
        g.output("pooled", pooled);
        if let Some(outputs) = self.projection {
            let projected = gemm(g, pooled, PROJECTION.trim_end_matches(".weight"), self.width, outputs, false);
            g.output("projected", projected);
        }
    }

    fn inputs(&self, g: &mut Graph<'_>) -> (V, V, V) {
        let positions = Dim::Fixed(self.positions);
        let ids = g.input("input_ids", ElementType::I64, &[Dim::Free("batch"), positions]);
        let end = g.input("end", ElementType::I64, &[Dim::Free("batch"), Dim::Fixed(1)]);
        let layer = g.input("layer", ElementType::I64, &[Dim::Fixed(1)]);
        (ids, end, layer)
    }

    /// Rows are gathered as they are stored: converting the whole table would cost more than the rest of the encoder.
    fn embed(&self, g: &mut Graph<'_>, ids: V) -> V {
        let table = g.weight_stored(&format!("{EMBEDDINGS}.token_embedding.weight"), &[self.vocabulary, self.width]);
        let rows = g.op("Gather", "", &[table, ids], &[Attr::Int("axis", 0)]);
        let rows = g.cast(rows, g.compute());
        let name = format!("{EMBEDDINGS}.position_embedding.weight");
        let positions = g.weight_stored(&name, &[self.positions, self.width]);
        let positions = g.cast(positions, g.compute());
        add(g, rows, positions)
    }

    fn layer(&self, g: &mut Graph<'_>, x: V, path: &str) -> V {
        let normed = layer_norm(g, x, &format!("{path}.layer_norm1"), self.width, self.norm_eps);
        let attended = self.attention(g, normed, &format!("{path}.self_attn"));
        let x = add(g, x, attended);
        let normed = layer_norm(g, x, &format!("{path}.layer_norm2"), self.width, self.norm_eps);
        let inner = linear(g, normed, &format!("{path}.mlp.fc1"), self.width, self.inner, true);
        let inner = match self.activation {
            Activation::QuickGelu => quick_gelu(g, inner),
            Activation::Gelu => gelu(g, inner),
        };
        let outer = linear(g, inner, &format!("{path}.mlp.fc2"), self.inner, self.width, true);
        add(g, x, outer)
    }

    /// Each token sees itself and those before it.
    fn attention(&self, g: &mut Graph<'_>, x: V, path: &str) -> V {
        let qkv = ["q_proj", "k_proj", "v_proj"]
            .map(|part| linear(g, x, &format!("{path}.{part}"), self.width, self.width, true));
        let attended = attention_with(g, qkv, self.heads, None, true);
        linear(g, attended, &format!("{path}.out_proj"), self.width, self.width, true)
    }
}

/// The states of one layer of all.
fn select(g: &mut Graph<'_>, states: &[V], layer: V) -> V {
    let stacked: Vec<V> = states.iter().map(|state| unsqueeze(g, *state, &[0])).collect();
    let stacked = concat(g, &stacked, 0);
    let chosen = g.op("Gather", "", &[stacked, layer], &[Attr::Int("axis", 0)]);
    let axis = g.const_i64(&[0], &[1]);
    g.op("Squeeze", "", &[chosen, axis], &[])
}

impl Config {
    /// Bytes of the largest value of a run of `batch` prompts: the states of all layers behind each other. With
    /// `is_converted`, matrices are converted in memory and the largest of them counts as well.
    #[must_use]
    pub fn largest_bytes(&self, batch: usize, is_converted: bool) -> u64 {
        let size = |side: usize| u64::try_from(side).unwrap_or(u64::MAX);
        let rows = size(batch).saturating_mul(size(self.positions));
        let states = size(self.layers).saturating_add(1).saturating_mul(size(self.width)).saturating_mul(rows);
        let weight = if is_converted { size(self.width).saturating_mul(size(self.inner)) } else { 0 };
        states.max(weight).saturating_mul(4)
    }
}
