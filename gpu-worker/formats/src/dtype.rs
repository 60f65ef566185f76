//! Element types as safetensors names them.

use std::fmt;

macro_rules! dtypes {
    ($($variant:ident $name:literal $bits:literal $float:literal,)*) => {
        /// An element type; the name is exactly the one in the file.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "the variants are the file format's own names")]
        pub enum Dtype { $($variant,)* }

        impl Dtype {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in the file, upper case.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Bits of one element.
            #[must_use]
            pub const fn bits(self) -> u64 {
                match self { $(Self::$variant => $bits,)* }
            }

            /// Whether weights are stored in it (floating point).
            #[must_use]
            pub const fn is_float(self) -> bool {
                match self { $(Self::$variant => $float,)* }
            }

            /// The type with exactly this name.
            #[must_use]
            pub fn parse(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

dtypes! {
    Bool "BOOL" 8 false,
    F4 "F4" 4 true,
    F6E2M3 "F6_E2M3" 6 true,
    F6E3M2 "F6_E3M2" 6 true,
    U8 "U8" 8 false,
    I8 "I8" 8 false,
    F8E5M2 "F8_E5M2" 8 true,
    F8E4M3 "F8_E4M3" 8 true,
    F8E8M0 "F8_E8M0" 8 true,
    F8E4M3Fnuz "F8_E4M3FNUZ" 8 true,
    F8E5M2Fnuz "F8_E5M2FNUZ" 8 true,
    I16 "I16" 16 false,
    U16 "U16" 16 false,
    F16 "F16" 16 true,
    Bf16 "BF16" 16 true,
    I32 "I32" 32 false,
    U32 "U32" 32 false,
    F32 "F32" 32 true,
    C64 "C64" 64 true,
    F64 "F64" 64 true,
    I64 "I64" 64 false,
    U64 "U64" 64 false,
}

impl Dtype {
    /// The everyday name of a model in this type: `fp16`, `bf16`, `fp32`, …
    #[must_use]
    pub fn variant_name(self) -> String {
        match self {
            Self::F16 => "fp16".to_owned(),
            Self::Bf16 => "bf16".to_owned(),
            Self::F32 => "fp32".to_owned(),
            Self::F64 => "fp64".to_owned(),
            other => other.as_str().to_lowercase().replacen('f', "fp", 1),
        }
    }

    /// The narrowest type that holds every value of both exactly; none where types other than floats of 16 bits and more differ.
    #[must_use]
    pub fn holding(self, other: Self) -> Option<Self> {
        let rank = |dtype| match dtype {
            Self::F16 | Self::Bf16 => Some(16),
            Self::F32 => Some(32),
            Self::F64 => Some(64),
            _ => None,
        };
        if self == other {
            return Some(self);
        }
        // of two types of 16 bits one has the range and the other the precision
        match rank(self)?.max(rank(other)?) {
            64 => Some(Self::F64),
            _ => Some(Self::F32),
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_both_is_as_narrow_as_can_be() {
        use Dtype as D;
        for (one, other, holds) in [
            (D::F16, D::F16, Some(D::F16)),
            (D::F16, D::Bf16, Some(D::F32)),
            (D::Bf16, D::F32, Some(D::F32)),
            (D::F64, D::F16, Some(D::F64)),
            (D::I64, D::I64, Some(D::I64)),
            (D::F8E4M3, D::F16, None),
            (D::I32, D::F32, None),
        ] {
            assert_eq!((one.holding(other), other.holding(one)), (holds, holds), "{one} {other}");
        }
    }

    #[test]
    fn names_are_exact_and_upper_case() {
        for dtype in Dtype::ALL {
            assert_eq!(Dtype::parse(dtype.as_str()), Some(*dtype));
        }
        assert_eq!(Dtype::parse("f16"), None);
        assert_eq!(Dtype::F8E4M3.variant_name(), "fp8_e4m3");
    }
}
