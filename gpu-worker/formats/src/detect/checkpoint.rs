//! Whole checkpoints in one file, and denoisers on their own.

use super::{DENOISER_PREFIX, Family, Verdict, denoiser};
use crate::{
    components::{ENCODER_PREFIXES, VAE_PREFIXES},
    keys::Keys,
    vocab::{Base, ModelType},
};

/// A file with the prefixes of a checkpoint.
pub(super) fn checkpoint(keys: &Keys<'_>) -> Option<Verdict> {
    if !keys.any_under(DENOISER_PREFIX) {
        return without_denoiser(keys);
    }
    let Some(family) = denoiser(keys, DENOISER_PREFIX) else {
        return Some(Verdict::unknown(format!(
            "the tensors below `{DENOISER_PREFIX}` are of no architecture known here"
        )));
    };
    let parts: Vec<&str> =
        VAE_PREFIXES.iter().chain(ENCODER_PREFIXES).copied().filter(|part| keys.any_under(part)).collect();
    let mut verdict = Verdict::of(if parts.is_empty() { bare_type(&family) } else { ModelType::Checkpoint });
    for part in &parts {
        verdict.saw("checkpoint.part", part, keys.under(part).count());
    }
    let is_transformer = family.is_transformer;
    verdict.adopt(family);
    if !is_transformer {
        check_encoders(&mut verdict, keys);
    }
    predict(&mut verdict, keys);
    ema(&mut verdict, keys);
    Some(verdict)
}

/// A copy of the denoiser with averaged weights, which training leaves behind.
fn ema(verdict: &mut Verdict, keys: &Keys<'_>) {
    let copies = keys.under("model_ema.").filter(|(_, tensor)| tensor.elements() > 1).count();
    if copies > 0 {
        verdict.saw("checkpoint.ema", "model_ema.", copies);
    }
    verdict.fact("ema", copies > 0);
}

/// EMA weights alone, or encoders and VAE bundled without a denoiser.
fn without_denoiser(keys: &Keys<'_>) -> Option<Verdict> {
    if keys.any_under("model_ema.") {
        return Some(Verdict::unknown("holds only the EMA copy of a denoiser (`model_ema.`), which is not loaded"));
    }
    let parts: Vec<&str> =
        VAE_PREFIXES.iter().chain(ENCODER_PREFIXES).copied().filter(|part| keys.any_under(part)).collect();
    let [only] = parts.as_slice() else {
        return None;
    };
    let is_vae = VAE_PREFIXES.contains(only);
    if is_vae && !keys.any_under(&format!("{only}decoder.")) {
        return None;
    }
    let mut verdict = Verdict::of(if is_vae { ModelType::Vae } else { ModelType::TextEncoder });
    verdict.saw("checkpoint.only_part", only, keys.under(only).count());
    verdict.reason = Some("a part cut from a checkpoint; it does not say of which family".to_owned());
    Some(verdict)
}

/// The encoders in the file are a key set: they decide between families of equal UNet structure and
/// widths that no release has.
fn check_encoders(verdict: &mut Verdict, keys: &Keys<'_>) {
    let told = [
        ("conditioner.embedders.1.", Base::Sdxl),
        ("conditioner.embedders.0.model.", Base::SdxlRefiner),
        ("cond_stage_model.model.", Base::Sd21),
        ("cond_stage_model.transformer.", Base::Sd15),
    ];
    let Some((prefix, base)) = told.into_iter().find(|(prefix, _)| keys.any_under(prefix)) else {
        return;
    };
    verdict.saw("checkpoint.encoders", prefix, base.as_str());
    if verdict.base == base {
        return;
    }
    let siblings = matches!((verdict.base, base), (Base::Sd15 | Base::Sd21, Base::Sd15 | Base::Sd21));
    if siblings {
        verdict.base = base;
    } else {
        verdict.reason =
            Some(format!("the UNet looks like {} but the text encoders (`{prefix}`) like {base}", verdict.base));
        verdict.base = Base::Unknown;
    }
}

/// A denoiser without prefix.
pub(super) fn bare_denoiser(keys: &Keys<'_>) -> Option<Verdict> {
    let family = denoiser(keys, "")?;
    let mut verdict = Verdict::of(bare_type(&family));
    verdict.adopt(family);
    predict(&mut verdict, keys);
    Some(verdict)
}

const fn bare_type(family: &Family) -> ModelType {
    if family.is_transformer { ModelType::Transformer } else { ModelType::Unet }
}

/// The prediction type where the file says it: SDXL marks v-prediction, SD1 and SD2 mark nothing.
fn predict(verdict: &mut Verdict, keys: &Keys<'_>) {
    let scope = keys.scope("");
    let marks = [("v_pred", "v_prediction"), ("edm_vpred.sigma_max", "edm_v_prediction"), ("edm_mean", "edm")];
    let mark = marks.into_iter().find(|(key, _)| scope.has(key));
    let (rule, matched, prediction) = match (mark, verdict.base) {
        (Some((key, prediction)), _) => ("prediction.marker", key, prediction),
        (None, Base::Sd3 | Base::Flux) => ("prediction.family", "base", "flow"),
        (None, Base::Sdxl | Base::SdxlRefiner) => ("prediction.no_marker", "v_pred", "epsilon"),
        _ => return,
    };
    verdict.saw(rule, matched, prediction);
    verdict.prediction = Some(prediction.to_owned());
    if scope.has("ztsnr") {
        verdict.saw("prediction.zero_terminal_snr", "ztsnr", true);
        verdict.fact("zero_terminal_snr", true);
    }
}
