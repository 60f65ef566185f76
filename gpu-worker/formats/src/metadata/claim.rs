//! Reading the names that tools and sites give to families and predictions.

use crate::vocab::Base;

/// The family that a text names; none for families that are not known here.
#[must_use]
pub fn base(text: &str) -> Option<Base> {
    let plain: String = text.to_ascii_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
    // the first beginning that fits: the refiner before SDXL, longer names before shorter ones
    let known = [
        ("stablediffusionxlv1refiner", Base::SdxlRefiner),
        ("sdxlrefiner", Base::SdxlRefiner),
        ("stablediffusionxl", Base::Sdxl),
        ("sdxl", Base::Sdxl),
        ("pony", Base::Sdxl),
        ("illustrious", Base::Sdxl),
        ("noobai", Base::Sdxl),
        ("stablediffusionv1", Base::Sd15),
        ("stablediffusion1", Base::Sd15),
        ("sdv1", Base::Sd15),
        ("sd14", Base::Sd15),
        ("sd15", Base::Sd15),
        ("sd1", Base::Sd15),
        ("stablediffusionv2", Base::Sd21),
        ("stablediffusion2", Base::Sd21),
        ("sdv2", Base::Sd21),
        ("sd2", Base::Sd21),
        ("stablediffusionv3", Base::Sd3),
        ("stablediffusion3", Base::Sd3),
        ("sd3", Base::Sd3),
        ("flux2", Base::Unknown),
        ("flux1", Base::Flux),
        ("flux", Base::Flux),
    ];
    let found = known.into_iter().find(|(beginning, _)| plain.starts_with(beginning)).map(|(_, base)| base);
    found.filter(|base| *base != Base::Unknown)
}

/// The prediction that a text names.
pub(crate) fn prediction(text: &str) -> Option<&'static str> {
    match text.to_ascii_lowercase().as_str() {
        "v" | "v_prediction" | "v-prediction" | "vpred" => Some("v_prediction"),
        "epsilon" | "eps" => Some("epsilon"),
        "sample" => Some("sample"),
        "flow" | "flow_matching" | "flow_prediction" => Some("flow"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tools_and_sites() {
        let cases = [
            ("sd_v1", Some(Base::Sd15)),
            ("SD 1.5 LCM", Some(Base::Sd15)),
            ("SD 2.1 768", Some(Base::Sd21)),
            ("sdxl_base_v1-0", Some(Base::Sdxl)),
            ("SDXL Turbo", Some(Base::Sdxl)),
            ("Pony", Some(Base::Sdxl)),
            ("stable-diffusion-xl-v1-refiner", Some(Base::SdxlRefiner)),
            ("SD 3.5 Large", Some(Base::Sd3)),
            ("Flux.1 D", Some(Base::Flux)),
            // this program's own words
            ("sdxl-refiner", Some(Base::SdxlRefiner)),
            ("sd21", Some(Base::Sd21)),
            ("unknown", None),
            ("FLUX.2", None),
            ("Other", None),
        ];
        for (text, expected) in cases {
            assert_eq!(base(text), expected, "{text}");
        }
    }
}
