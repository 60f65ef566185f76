//! Chunks: what one run of a text encoder takes, and the cut of long prompts into them.

use super::ClipTokenizer;

/// A token with the weight that the prompt gives it; 1 is plain.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WeightedToken {
    /// Its id.
    pub id: u32,
    /// Its weight.
    pub weight: f32,
}

impl WeightedToken {
    pub(crate) fn plain(id: u32) -> Self {
        Self { id, weight: 1.0 }
    }
}

/// Input ids of one run: begin, up to 75 tokens, end, padding.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// Ids, as many as the encoder has positions (77).
    pub ids: Vec<i64>,
    /// A weight for each id; 1 for marks and padding.
    pub weights: Vec<f32>,
    /// Position of the first end mark, where pooled states are taken.
    pub end: usize,
}

impl Chunk {
    /// Whether a token has another weight than 1.
    #[must_use]
    pub fn is_weighted(&self) -> bool {
        self.weights.iter().any(|weight| (weight - 1.0).abs() > f32::EPSILON)
    }
}

impl ClipTokenizer {
    /// One chunk from at most [`Self::chunk_tokens`] tokens; more are cut.
    pub(super) fn chunk(&self, tokens: impl IntoIterator<Item = WeightedToken>) -> Chunk {
        let (mut ids, mut weights) = (vec![i64::from(self.begin)], vec![1.0]);
        for token in tokens.into_iter().take(self.chunk_tokens()) {
            ids.push(i64::from(token.id));
            weights.push(token.weight);
        }
        ids.push(i64::from(self.end));
        ids.resize(self.length, i64::from(self.pad));
        weights.resize(self.length, 1.0);
        // a prompt may hold the end mark itself: models take the first one
        let end = ids.iter().position(|id| *id == i64::from(self.end)).unwrap_or(self.length - 1);
        Chunk { ids, weights, end }
    }

    /// Chunks of sections, each of which starts a chunk of its own (`BREAK`); never none, so that an empty prompt has states too.
    #[must_use]
    pub fn chunks(&self, sections: &[Vec<WeightedToken>]) -> Vec<Chunk> {
        let cut = |section: &Vec<WeightedToken>| match section.as_slice() {
            [] => vec![self.empty_chunk()],
            tokens => tokens.chunks(self.chunk_tokens()).map(|tokens| self.chunk(tokens.iter().copied())).collect(),
        };
        let chunks: Vec<Chunk> = sections.iter().flat_map(cut).collect();
        if chunks.is_empty() { vec![self.empty_chunk()] } else { chunks }
    }

    /// The chunk of an empty prompt; fills up a prompt that has fewer chunks than the one beside it.
    #[must_use]
    pub fn empty_chunk(&self) -> Chunk {
        self.chunk([])
    }
}
