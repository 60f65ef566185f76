//! What of a LoRA does not belong to the model that it is used with: another family, for which it is refused also where the dimensions say
//! nothing against it; and modules that the model does not have, and tensors that are no modules, which are told and not used.

use shared::wire::{LoraMisfit, OtherFamily};

use super::Unused;

/// The families of a LoRA and a model where they are known and differ.
pub fn other_family(lora: Option<&str>, model: Option<&str>) -> Option<OtherFamily> {
    let (lora, model) = lora.zip(model).filter(|(lora, model)| lora != model)?;
    Some(OtherFamily { lora: lora.to_owned(), model: model.to_owned() })
}

/// Why a LoRA is not for this model: its dimensions, which say the most, else its family.
pub fn refusal(dimensions: Option<String>, families: Option<&OtherFamily>) -> Option<String> {
    let family = |OtherFamily { lora, model }: &OtherFamily| {
        format!("it is for {lora}, the model is of {model}, though the dimensions of its modules fit")
    };
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
        let families = other_family(Some("sd21"), Some("sd15"));
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
