//! Typed identifiers: one ULID newtype per thing, stored as 26 characters of text everywhere
//! (readable in psql, Redis and URLs; sorts by creation time).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use ulid::Ulid;

/// A text that is not an id of the kind that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind} id: expected a ULID of 26 characters")]
pub struct BadId {
    /// What kind of id was expected.
    pub kind: &'static str,
    /// What was given.
    pub text: String,
}

macro_rules! ulid_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(transparent)]
        #[schema(value_type = String, example = "01JD9Z8M3V6Q2X4K7T5R1W0YBC")]
        pub struct $name(Ulid);

        impl $name {
            /// A new id, ordered after all that this process made in earlier milliseconds.
            pub fn generate() -> Self {
                Self(Ulid::new())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                let bad = || BadId { kind: $kind, text: text.chars().take(64).collect() };
                Ulid::from_string(text).map(Self).map_err(|_| bad())
            }
        }

        impl sqlx::Type<sqlx::Postgres> for $name {
            fn type_info() -> sqlx::postgres::PgTypeInfo {
                <String as sqlx::Type<sqlx::Postgres>>::type_info()
            }

            fn compatible(ty: &sqlx::postgres::PgTypeInfo) -> bool {
                <String as sqlx::Type<sqlx::Postgres>>::compatible(ty)
            }
        }

        impl sqlx::postgres::PgHasArrayType for $name {
            fn array_type_info() -> sqlx::postgres::PgTypeInfo {
                <String as sqlx::postgres::PgHasArrayType>::array_type_info()
            }
        }

        impl sqlx::Encode<'_, sqlx::Postgres> for $name {
            fn encode_by_ref(
                &self,
                buf: &mut sqlx::postgres::PgArgumentBuffer,
            ) -> Result<sqlx::encode::IsNull, sqlx::error::BoxDynError> {
                <String as sqlx::Encode<'_, sqlx::Postgres>>::encode_by_ref(&self.0.to_string(), buf)
            }
        }

        impl<'r> sqlx::Decode<'r, sqlx::Postgres> for $name {
            fn decode(value: sqlx::postgres::PgValueRef<'r>) -> Result<Self, sqlx::error::BoxDynError> {
                Ok(<&str as sqlx::Decode<'r, sqlx::Postgres>>::decode(value)?.parse()?)
            }
        }
    };
}

ulid_id!(
    /// A job: one durable unit of work.
    JobId,
    "job"
);
ulid_id!(
    /// A catalogue entry.
    ModelId,
    "model"
);
ulid_id!(
    /// A part of a model that is loaded on its own.
    ComponentId,
    "component"
);
ulid_id!(
    /// One look for what is wrong with a model.
    ValidationId,
    "validation"
);
ulid_id!(
    /// Bytes that a client sent for a job to work on.
    UploadId,
    "upload"
);
ulid_id!(
    /// Bytes in the database: of an upload or an artifact.
    BlobId,
    "blob"
);
ulid_id!(
    /// A declared assembly of models.
    PipelineId,
    "pipeline"
);
ulid_id!(
    /// One measurement of a model on a device.
    BenchmarkId,
    "benchmark"
);
ulid_id!(
    /// One start of one process; never reused, never the host's or pod's name.
    Incarnation,
    "incarnation"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_bad_text_names_the_kind() {
        let id = JobId::generate();
        assert_eq!(id.to_string().parse::<JobId>(), Ok(id));
        let error = "nonsense".parse::<ModelId>().unwrap_err();
        assert_eq!(error.to_string(), "`nonsense` is not a model id: expected a ULID of 26 characters");
    }
}
