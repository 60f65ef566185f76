//! What runs of models cost, by who runs them; closed labels, every series present from the start.

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};
use serde_json::Value;

use crate::runner::Work;

/// Who runs models.
const MANAGERS: [&str; 5] = ["vae", "encoder", "unet", "pipeline", "other"];
/// What became of a run.
const OUTCOMES: [&str; 3] = ["ran", "failed", "cancelled"];

/// Handles of the series.
#[derive(Debug, Clone)]
pub struct EngineMetrics {
    runs: IntCounterVec,
    seconds: HistogramVec,
    estimated_bytes: IntGaugeVec,
    peak_bytes: IntGaugeVec,
    automatic_tilings: IntCounter,
    embedding_hits: IntCounter,
    embedding_misses: IntCounter,
    tokenized_texts: IntCounter,
    tokenized_tokens: IntCounter,
}

/// The manager that a run belongs to.
fn manager(work: &Work) -> &'static str {
    match work {
        Work::VaeDecode { .. } | Work::VaeEncode { .. } => "vae",
        Work::EncodeText { .. } => "encoder",
        Work::UnetStep { .. } => "unet",
        Work::Generate(_) => "pipeline",
        Work::Forward { part } | Work::Measure { part, .. } => match part.kind.as_str() {
            "vae" | "vae_encoder" | "vae_decoder" => "vae",
            "text_encoder" | "text_encoder_2" | "text_encoder_3" => "encoder",
            "unet" => "unet",
            _ => "other",
        },
    }
}

impl EngineMetrics {
    /// Registers all series.
    ///
    /// # Errors
    /// When a name is registered twice.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name, help| IntGaugeVec::new(Opts::new(name, help), &["manager"]);
        let metrics = Self {
            runs: IntCounterVec::new(
                Opts::new("modelyard_engine_runs_total", "Runs of models, by manager and outcome."),
                &["manager", "outcome"],
            )?,
            seconds: HistogramVec::new(
                HistogramOpts::new("modelyard_engine_run_seconds", "Duration of runs that gave a result, by manager.")
                    .buckets(vec![0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0]),
                &["manager"],
            )?,
            estimated_bytes: gauge(
                "modelyard_engine_estimated_bytes",
                "Memory beside the weights that the last run was expected to take, by manager.",
            )?,
            peak_bytes: gauge(
                "modelyard_engine_peak_bytes",
                "Memory beside the weights that the last measured run took at most, by manager.",
            )?,
            automatic_tilings: IntCounter::new(
                "modelyard_vae_automatic_tilings_total",
                "Runs of VAEs that were cut into tiles because the whole did not fit.",
            )?,
            embedding_hits: IntCounter::new(
                "modelyard_embedding_cache_hits_total",
                "States of chunks of prompts, of one layer each, that were kept from before.",
            )?,
            embedding_misses: IntCounter::new(
                "modelyard_embedding_cache_misses_total",
                "States of chunks of prompts, of one layer each, that were not.",
            )?,
            tokenized_texts: IntCounter::new(
                "modelyard_tokenized_texts_total",
                "Texts that `tokenize` jobs cut into tokens, and lists of ids that they put together, by each tokenizer.",
            )?,
            tokenized_tokens: IntCounter::new("modelyard_tokenized_tokens_total", "Tokens of those texts and lists.")?,
        };
        metrics.zero();
        metrics.register_all(registry)?;
        Ok(metrics)
    }

    fn zero(&self) {
        for manager in MANAGERS {
            self.seconds.with_label_values(&[manager]);
            self.estimated_bytes.with_label_values(&[manager]);
            self.peak_bytes.with_label_values(&[manager]);
            for outcome in OUTCOMES {
                self.runs.with_label_values(&[manager, outcome]);
            }
        }
    }

    fn register_all(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.runs.clone()))?;
        registry.register(Box::new(self.seconds.clone()))?;
        registry.register(Box::new(self.estimated_bytes.clone()))?;
        registry.register(Box::new(self.peak_bytes.clone()))?;
        registry.register(Box::new(self.automatic_tilings.clone()))?;
        registry.register(Box::new(self.embedding_hits.clone()))?;
        registry.register(Box::new(self.embedding_misses.clone()))?;
        registry.register(Box::new(self.tokenized_texts.clone()))?;
        registry.register(Box::new(self.tokenized_tokens.clone()))
    }

    /// A run gave a result.
    pub fn ran(&self, work: &Work, seconds: f64, facts: &Value) {
        let manager = manager(work);
        self.runs.with_label_values(&[manager, "ran"]).inc();
        let duration: Histogram = self.seconds.with_label_values(&[manager]);
        duration.observe(seconds);
        self.took(manager, facts);
        // a pipeline tells of each of its models apart
        for (part, of_part) in [("encode", "encoder"), ("denoise", "unet"), ("decode", "vae")] {
            facts.get(part).into_iter().for_each(|part| self.took(of_part, part));
        }
        let is_automatic = facts.get("decode").unwrap_or(facts).get("tiling_is_automatic").and_then(Value::as_bool);
        self.automatic_tilings.inc_by(u64::from(is_automatic.unwrap_or_default()));
        let looked = |name: &str| facts.get("embedding_cache").and_then(|cache| cache.get(name)?.as_u64()).unwrap_or(0);
        self.embedding_hits.inc_by(looked("hits"));
        self.embedding_misses.inc_by(looked("misses"));
    }

    fn took(&self, manager: &str, facts: &Value) {
        for (name, gauge) in [("estimated_bytes", &self.estimated_bytes), ("peak_bytes", &self.peak_bytes)] {
            if let Some(bytes) = facts.get(name).and_then(Value::as_i64) {
                gauge.with_label_values(&[manager]).set(bytes);
            }
        }
    }

    /// Texts were tokenized on the host.
    pub fn tokenized(&self, texts: u64, tokens: u64) {
        self.tokenized_texts.inc_by(texts);
        self.tokenized_tokens.inc_by(tokens);
    }

    /// A run gave none.
    pub fn failed(&self, work: &Work, is_cancelled: bool) {
        let outcome = if is_cancelled { "cancelled" } else { "failed" };
        self.runs.with_label_values(&[manager(work), outcome]).inc();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shared::job::engine::ImageFormat;

    use super::*;
    use crate::runner::PartFacts;

    #[test]
    fn a_run_is_counted_with_what_it_took() {
        let metrics = EngineMetrics::register(&Registry::new()).unwrap();
        let vae = PartFacts { slot: "vae".into(), kind: "vae".into(), base: None, config: None, graph: None };
        let work = Work::VaeDecode { vae, settings: Default::default(), format: ImageFormat::Png, limit_bytes: 0 };
        metrics.ran(&work, 0.5, &json!({ "estimated_bytes": 10, "peak_bytes": 7, "tiling_is_automatic": true }));
        metrics.failed(&work, true);
        let runs = |outcome| metrics.runs.with_label_values(&["vae", outcome]).get();
        assert_eq!((runs("ran"), runs("failed"), runs("cancelled")), (1, 0, 1));
        assert_eq!(metrics.peak_bytes.with_label_values(&["vae"]).get(), 7);
        assert_eq!(metrics.automatic_tilings.get(), 1);
        let all = json!({
            "estimated_bytes": 30, "peak_bytes": 20, "encode": { "estimated_bytes": 1, "peak_bytes": 2 },
            "denoise": { "estimated_bytes": 3, "peak_bytes": null }, "decode": { "estimated_bytes": 30, "peak_bytes": 20 },
        });
        metrics.ran(&work, 0.5, &all);
        let bytes = |gauge: &IntGaugeVec| ["encoder", "unet", "vae"].map(|of| gauge.with_label_values(&[of]).get());
        assert_eq!((bytes(&metrics.estimated_bytes), bytes(&metrics.peak_bytes)), ([1, 3, 30], [2, 0, 20]));
    }
}
