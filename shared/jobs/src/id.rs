use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The id of a row: 1 to 64 of `A-Za-z0-9_-`. Nothing here knows how ids are made.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(String);

/// The text is not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id is 1 to 64 of A-Z, a-z, 0-9, _ and -")]
pub struct InvalidId;

impl Id {
    /// The longest id, in characters.
    pub const MAX_LENGTH: usize = 64;

    /// The id as text, as the database stores it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Id {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if (1..=Self::MAX_LENGTH).contains(&text.len()) && text.bytes().all(legal) {
            Ok(Self(text))
        } else {
            Err(InvalidId)
        }
    }
}

impl FromStr for Id {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::try_from(text.to_owned())
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl JsonSchema for Id {
    fn schema_name() -> Cow<'static, str> {
        "Id".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"})
    }

    fn inline_schema() -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_to_sixty_four_plain_characters() {
        for good in ["a", "0d9c6c1e-7a51-4a2e-9a38-2f1d2c0b7a10", "usr_1", &"x".repeat(64)] {
            assert!(Id::from_str(good).is_ok(), "{good}");
        }
        for bad in ["", " a", "a/b", "ä", "a\n", &"x".repeat(65)] {
            assert_eq!(Id::from_str(bad), Err(InvalidId), "{bad:?}");
        }
    }

    #[test]
    fn a_bad_id_in_a_message_says_what_an_id_is() {
        let error = serde_json::from_str::<Id>("\"a b\"").unwrap_err().to_string();
        assert!(error.contains("1 to 64"), "{error}");
    }
}
