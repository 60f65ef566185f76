//! What somebody says a model is, against its detection.

use crate::vocab::{Base, ModelType};

/// A correction; the default corrects nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Correction {
    /// The type.
    pub model_type: Option<ModelType>,
    /// The family.
    pub base: Option<Base>,
    /// The variant of a folder's weights that is read, in place of the first of the usual order.
    pub variant: Option<String>,
}

impl Correction {
    /// From the names on the wire. A name of none of the known types or families says nothing about how tensors are cut
    /// and named, so it corrects nothing here.
    #[must_use]
    pub fn named(model_type: Option<&str>, base: Option<&str>, variant: Option<&str>) -> Self {
        Self {
            model_type: model_type.and_then(ModelType::parse),
            base: base.and_then(Base::parse),
            variant: variant.map(str::to_owned),
        }
    }

    /// The corrected answer.
    #[must_use]
    pub(crate) fn of(&self, model_type: ModelType, base: Base) -> (ModelType, Base) {
        (self.model_type.unwrap_or(model_type), self.base.unwrap_or(base))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_correct_and_others_leave_the_detection() {
        let said = Correction::named(Some("vae"), Some("sdxl"), None);
        assert_eq!(said.of(ModelType::Unknown, Base::Sd15), (ModelType::Vae, Base::Sdxl));
        let said = Correction::named(Some("hologram"), None, None);
        assert_eq!(said, Correction::default());
        assert_eq!(said.of(ModelType::Lora, Base::Flux), (ModelType::Lora, Base::Flux));
    }
}
