//! Scaled dot-product attention, fused: the scores are never whole in memory.

use super::dense::side;
use crate::graph::{Attr, Graph, V, builder::MICROSOFT};

/// softmax(q·kᵀ/√d + mask)·v with `heads` heads: q [batch, tokens, width], k and v [batch, others, width]; the mask is
/// added to the scores: [1 or batch, 1 or heads, tokens, others].
pub fn multi_head_attention(g: &mut Graph<'_>, q: V, k: V, v: V, heads: usize, mask: Option<V>) -> V {
    attention_with(g, [q, k, v], heads, mask, false)
}

/// The same; `causal` lets each token see itself and those before it.
pub fn attention_with(g: &mut Graph<'_>, [q, k, v]: [V; 3], heads: usize, mask: Option<V>, causal: bool) -> V {
    let mut given = vec![q, k, v];
    if let Some(mask) = mask {
        // neither a bias of the projections nor a mask of padded keys
        given.extend([V::NONE, V::NONE, mask]);
    }
    let mut attrs = vec![Attr::Int("num_heads", side(heads))];
    if causal {
        attrs.push(Attr::Int("unidirectional", 1));
    }
    g.op("MultiHeadAttention", MICROSOFT, &given, &attrs)
}
