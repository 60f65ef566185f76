//! What of a LoRA does not belong to the model that it is applied to all the same: modules that the model does not have, and another
//! family where the dimensions say nothing against it. Both are told, neither is refused: such LoRAs are used, and known for it.

use shared::wire::{LoraMisfit, OtherFamily};

use super::Matched;

/// The families of a LoRA and a model where they are known and differ.
pub fn other_family(lora: Option<&str>, model: Option<&str>) -> Option<OtherFamily> {
    let (lora, model) = lora.zip(model).filter(|(lora, model)| lora != model)?;
    Some(OtherFamily { lora: lora.to_owned(), model: model.to_owned() })
}

/// What of this LoRA does not belong to the model; none when all does.
pub fn misfit(lora: &str, families: Option<OtherFamily>, matched: &Matched) -> Option<LoraMisfit> {
    let Matched { unmatched, unmatched_examples, .. } = matched;
    (*unmatched > 0 || families.is_some()).then(|| LoraMisfit {
        lora: lora.to_owned(),
        unmatched: *unmatched,
        examples: unmatched_examples.clone(),
        families,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_does_not_belong_is_told() {
        assert_eq!(other_family(Some("sd15"), Some("sd15")), None);
        assert_eq!(other_family(None, Some("sd15")), None, "nobody knows the LoRA's");
        let families = other_family(Some("sd21"), Some("sd15"));
        assert_eq!(misfit("a", None, &Matched::default()), None);
        let other = misfit("a", families.clone(), &Matched::default()).unwrap();
        assert_eq!((other.unmatched, other.families), (0, families));
        let some = Matched { unmatched: 7, unmatched_examples: vec!["x".to_owned()], ..Matched::default() };
        let some = misfit("a", None, &some).unwrap();
        assert_eq!((some.unmatched, some.examples, some.families), (7, vec!["x".to_owned()], None));
    }
}
