//! What of a LoRA does not belong to the model that it is used with: another family, for which it is refused also where the dimensions say
//! nothing against it; and modules that the model does not have, and tensors that are no modules, which are told and not used.

use model_formats::metadata::claimed_base;
use shared::wire::{LoraMisfit, OtherFamily};

use super::Unused;

/// The families of a LoRA and a model where they are known and differ. An operator may call a family by any word: one that sites give to
/// a kind of SDXL means SDXL, and of a word that names no family nothing is concluded.
pub fn other_family(lora: Option<&str>, model: Option<&str>) -> Option<OtherFamily> {
    let (lora, model) = lora.and_then(claimed_base).zip(model.and_then(claimed_base))?;
    (lora != model).then(|| OtherFamily { lora: lora.to_string(), model: model.to_string() })
}

/// That it is for another family, where the dimensions of its modules were not looked at.
pub fn of_family(OtherFamily { lora, model }: &OtherFamily) -> String {
    format!("it is for {lora}, the model is of {model}")
}

/// Why a LoRA is not for this model: its dimensions, which say the most, else its family.
pub fn refusal(dimensions: Option<String>, families: Option<&OtherFamily>) -> Option<String> {
    let family = |families: &OtherFamily| format!("{}, though the dimensions of its modules fit", of_family(families));
    dimensions.or_else(|| families.map(family))
}

/// What of this LoRA is not used; none when all is.
pub fn misfit(lora: &str, unused: &Unused) -> Option<LoraMisfit> {
    let Unused { modules, module_examples, tensors, tensor_examples } = unused;
    (*modules > 0 || *tensors > 0).then(|| LoraMisfit {
        lora: lora.to_owned(),
        unmatched: *modules,
        examples: module_examples.clone(),
        others: *tensors,
        other_examples: tensor_examples.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_family_is_refused_and_what_is_not_used_is_told() {
        assert_eq!(other_family(Some("sd15"), Some("sd15")), None);
        assert_eq!(other_family(None, Some("sd15")), None, "nobody knows the LoRA's");
        for (lora, model) in [
            ("pony", "sdxl"),
            ("sdxl", "illustrious"),
            ("NoobAI", "pony"),
            ("sdxl-turbo", "sdxl"),
            ("sd1.5", "sd15"),
            ("of-my-own", "sdxl"),
            ("sdxl", "of-my-own"),
        ] {
            assert_eq!(other_family(Some(lora), Some(model)), None, "{lora} on {model}");
        }
        let pony = other_family(Some("pony"), Some("sd1.5")).unwrap();
        assert_eq!((pony.lora.as_str(), pony.model.as_str()), ("sdxl", "sd15"));
        let families = other_family(Some("sd21"), Some("sd15"));
        assert!(!of_family(families.as_ref().unwrap()).contains("dimensions"), "{families:?}");
        let why = refusal(None, families.as_ref()).unwrap();
        assert!(why.contains("sd21") && why.contains("sd15"), "{why}");
        assert_eq!(refusal(Some("40 by 24".to_owned()), families.as_ref()).as_deref(), Some("40 by 24"));
        assert_eq!(refusal(None, None), None);
        assert_eq!(misfit("a", &Unused::default()), None);
        let names = |count: usize| (0..count).map(|at| format!("x{at}")).collect::<Vec<_>>();
        let some = misfit("a", &Unused::of(&names(7), &names(1))).unwrap();
        assert_eq!((some.unmatched, some.examples), (7, names(3)));
        assert_eq!((some.others, some.other_examples), (1, names(1)));
    }
}
