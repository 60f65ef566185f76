//! A stack of LoRAs with their weights, and its canonical form: what decides which bytes come out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Weights by part of a UNet: the longest path that a module lies under counts, 1 elsewhere.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BlockWeights(pub BTreeMap<String, f64>);

impl BlockWeights {
    /// The weight of a module of this canonical path.
    #[must_use]
    pub fn of(&self, path: &str) -> f64 {
        // an empty path is the whole
        let under = |block: &str| {
            block.is_empty() || path == block || path.strip_prefix(block).is_some_and(|rest| rest.starts_with('.'))
        };
        let found = self.0.iter().filter(|(block, _)| under(block)).max_by_key(|(block, _)| block.len());
        found.map_or(1.0, |(_, weight)| *weight)
    }
}

/// One LoRA of a stack.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Digest of the LoRA's component.
    pub digest: String,
    /// Weight; may be negative.
    pub weight: f64,
    /// Weight for text encoders; that of the whole when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_encoder_weight: Option<f64>,
    /// Weights by part of the UNet, on top of the others.
    #[serde(default)]
    pub blocks: BlockWeights,
}

impl Entry {
    /// What the change of a module is multiplied with.
    #[must_use]
    pub fn strength(&self, component: &str, path: &str) -> f64 {
        if component.starts_with("text_encoder") {
            return self.text_encoder_weight.unwrap_or(self.weight);
        }
        self.weight * self.blocks.of(path)
    }

    /// Whether it changes nothing whatever its file holds.
    fn is_idle(&self) -> bool {
        let encoder = self.text_encoder_weight.unwrap_or(self.weight);
        encoder == 0.0 && (self.weight == 0.0 || self.is_muted())
    }

    fn is_muted(&self) -> bool {
        // an empty path covers everything that no other path does
        self.blocks.0.get("").is_some_and(|weight| *weight == 0.0)
            && self.blocks.0.values().all(|weight| *weight == 0.0)
    }
}

/// LoRAs that are applied together. Their order says nothing: sums do not depend on it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stack(pub Vec<Entry>);

impl Stack {
    /// The entries in the order in which they are summed, without those that change nothing. The same file twice stays
    /// twice: it adds.
    #[must_use]
    pub fn canonical(&self) -> Self {
        let mut entries: Vec<Entry> = self.0.iter().filter(|entry| !entry.is_idle()).cloned().map(written).collect();
        entries.sort_by(|a, b| {
            let weights = |entry: &Entry| [entry.weight, entry.text_encoder_weight.unwrap_or(entry.weight)];
            let by_weight =
                || weights(a).iter().zip(weights(b)).map(|(a, b)| a.total_cmp(&b)).find(|order| order.is_ne());
            let by_blocks = || format!("{:?}", a.blocks).cmp(&format!("{:?}", b.blocks));
            a.digest.cmp(&b.digest).then_with(|| by_weight().unwrap_or(std::cmp::Ordering::Equal)).then_with(by_blocks)
        });
        Self(entries)
    }

    /// Equal for stacks that give the same bytes over one base; a line of JSON.
    #[must_use]
    pub fn key(&self) -> String {
        // numbers, texts and maps with text keys: this cannot fail
        serde_json::to_string(&self.canonical()).unwrap_or_default()
    }
}

/// An entry with everything that is its default left out.
fn written(mut entry: Entry) -> Entry {
    entry.text_encoder_weight = entry.text_encoder_weight.filter(|weight| *weight != entry.weight);
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(digest: &str, weight: f64) -> Entry {
        Entry { digest: digest.to_owned(), weight, text_encoder_weight: None, blocks: BlockWeights::default() }
    }

    #[test]
    fn the_order_and_what_says_nothing_make_no_other_key() {
        let plain = Stack(vec![entry("a", 0.5), entry("b", -1.0)]);
        let mut said = entry("b", -1.0);
        said.text_encoder_weight = Some(-1.0);
        let other = Stack(vec![said, entry("c", 0.0), entry("a", 0.5)]);
        assert_eq!(plain.key(), other.key());
        assert_ne!(plain.key(), Stack(vec![entry("a", 0.5)]).key());
        assert_eq!(Stack(vec![entry("a", 0.5), entry("a", 0.5)]).canonical().0.len(), 2);
        assert_eq!(Stack::default().key(), Stack(vec![entry("a", 0.0)]).key());
    }

    #[test]
    fn the_longest_block_counts_and_encoders_have_their_own_weight() {
        let blocks = [("down_blocks", 0.5), ("down_blocks.1.attentions.0", 2.0), ("mid_block", 0.0)];
        let blocks = BlockWeights(blocks.into_iter().map(|(path, weight)| (path.to_owned(), weight)).collect());
        let entry = Entry { text_encoder_weight: Some(0.25), blocks, ..entry("a", 2.0) };
        assert_eq!(entry.strength("unet", "down_blocks.1.attentions.0.proj_in"), 4.0);
        assert_eq!(entry.strength("unet", "down_blocks.1.attentions.01"), 1.0);
        assert_eq!(entry.strength("unet", "mid_block.resnets.0.conv1"), 0.0);
        assert_eq!(entry.strength("unet", "up_blocks.0.resnets.0.conv1"), 2.0);
        assert_eq!(entry.strength("text_encoder_2", "mid_block"), 0.25);
        let muted = Entry { blocks: BlockWeights([(String::new(), 0.0)].into()), ..entry };
        assert_eq!(muted.strength("unet", "conv_in"), 0.0, "an empty path is the whole");
    }
}
