//! What can be wrong with a schema.

/// A mistake in a schema, or data that cannot fit it at all.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// Two fields share a name.
    #[error("field `{0}` is declared twice")]
    DuplicateField(String),
    /// A field's rule contradicts itself.
    #[error("field `{field}`: {what}")]
    BadField {
        /// Name of the field.
        field: String,
        /// What is wrong with it.
        what: String,
    },
    /// The target cannot be predicted as declared.
    #[error("target: {0}")]
    BadTarget(String),
    /// The data has another width than the schema.
    #[error("{found} values were given, the schema has {expected} (numbers, integers, booleans and embedding parts)")]
    Width {
        /// Values found.
        found: usize,
        /// Values expected.
        expected: usize,
    },
    /// Two schemas that had to be equal are not.
    #[error("schema fingerprint {found} was found, {expected} was expected")]
    Fingerprint {
        /// Fingerprint found.
        found: String,
        /// Fingerprint expected.
        expected: String,
    },
    /// A schema cannot take over from another one.
    #[error("schema {found} cannot take over from schema {expected}: {}", .why.join("; "))]
    Incompatible {
        /// Fingerprint of the new schema.
        found: String,
        /// Fingerprint of the old schema.
        expected: String,
        /// Every reason.
        why: Vec<String>,
    },
    /// A JSON Schema says something that a schema cannot.
    #[error("JSON Schema, `{path}`: {what}")]
    JsonSchema {
        /// JSON pointer to the place; empty for the whole.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// No schema can be inferred from the data.
    #[error("cannot infer a schema: {0}")]
    Infer(String),
}
