use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A moment in UTC; RFC 3339 on the wire.
pub type Timestamp = chrono::DateTime<chrono::Utc>;

/// The body of a job's messages: a small JSON object, camelCase, that a person can type into the SQS console.
///
/// Unknown fields are ignored; missing or wrong ones make the message undecodable.
pub trait Message: Serialize + DeserializeOwned + JsonSchema + Send + 'static {
    /// The version that this build writes. A change that breaks old messages raises it and adds an upcast.
    const V: u64 = 1;

    /// Turns a body of `version` (below [`Message::V`]) into one of the next version.
    fn upcast(_version: u64, body: Value) -> Value {
        body
    }

    /// The slot that the message stands for, if it names one; it replaces "now" in every rule of the run.
    fn as_of(&self) -> Option<Timestamp> {
        None
    }

    /// What types cannot say, e.g. ranges. The text ends up in the DLQ as the reason.
    fn validate(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Why a body is not a message of its job. The text is the reason that an operator reads in the DLQ.
#[derive(Debug, thiserror::Error)]
pub enum Undecodable {
    /// The body is not JSON at all.
    #[error("the body is not JSON: {0}")]
    NotJson(#[source] serde_json::Error),
    /// The body is JSON, but not an object.
    #[error("the body is a JSON {0}, not an object")]
    NotAnObject(&'static str),
    /// A field is missing, of the wrong type or out of range.
    #[error("invalid message: {0}")]
    Invalid(String),
    /// A newer producer wrote it: a later deployment of this function may understand it.
    #[error("message version {found} is newer than {known}, the newest that this function knows")]
    Newer {
        /// The `v` of the body.
        found: u64,
        /// The newest version that this build knows.
        known: u64,
    },
}

/// Reads one body, upcasting old versions. `v` is optional in a body; without it the version is 1.
pub fn decode<M: Message>(body: Value) -> Result<M, Undecodable> {
    let fields = match &body {
        Value::Object(fields) => fields,
        Value::Null => return Err(Undecodable::NotAnObject("null")),
        Value::Bool(_) => return Err(Undecodable::NotAnObject("boolean")),
        Value::Number(_) => return Err(Undecodable::NotAnObject("number")),
        Value::String(_) => return Err(Undecodable::NotAnObject("string")),
        Value::Array(_) => return Err(Undecodable::NotAnObject("array")),
    };
    let version = match fields.get("v") {
        None => 1,
        Some(v) => v
            .as_u64()
            .filter(|v| *v > 0)
            .ok_or_else(|| Undecodable::Invalid("`v` is not a positive integer".into()))?,
    };
    if version > M::V {
        return Err(Undecodable::Newer {
            found: version,
            known: M::V,
        });
    }
    let body = (version..M::V).fold(body, |body, version| M::upcast(version, body));
    let message: M = from_fields(body).map_err(Undecodable::Invalid)?;
    message.validate().map_err(Undecodable::Invalid)?;
    Ok(message)
}

/// Reads JSON; an error names the field that is wrong.
pub(crate) fn from_fields<T: DeserializeOwned>(body: Value) -> Result<T, String> {
    serde_path_to_error::deserialize(body).map_err(|error| {
        let (path, cause) = (error.path().to_string(), error.inner());
        if path == "." {
            cause.to_string()
        } else {
            format!("`{path}`: {cause}")
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    struct Renamed {
        new_name: u8,
    }

    impl Message for Renamed {
        const V: u64 = 2;

        fn upcast(_: u64, mut body: Value) -> Value {
            body["new_name"] = body["old_name"].take();
            body
        }
    }

    #[test]
    fn an_old_message_is_upcast_and_a_newer_one_is_named_as_such() {
        assert_eq!(
            decode::<Renamed>(json!({"old_name": 3})).unwrap(),
            Renamed { new_name: 3 }
        );
        assert_eq!(
            decode::<Renamed>(json!({"v": 2, "new_name": 3})).unwrap(),
            Renamed { new_name: 3 }
        );
        let error = decode::<Renamed>(json!({"v": 3})).unwrap_err();
        assert_eq!(
            error.to_string(),
            "message version 3 is newer than 2, the newest that this function knows"
        );
    }

    #[test]
    fn a_wrong_body_says_what_is_wrong() {
        for (body, reason) in [
            (json!([1]), "the body is a JSON array, not an object"),
            (json!({"v": "x"}), "invalid message: `v` is not a positive integer"),
            (json!({"v": 2}), "invalid message: missing field `new_name`"),
            (
                json!({"v": 2, "new_name": true}),
                "invalid message: `new_name`: invalid type: boolean `true`, expected u8",
            ),
        ] {
            assert_eq!(decode::<Renamed>(body).unwrap_err().to_string(), reason);
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_decoding_panic(text in ".{0,64}", v in any::<i64>()) {
            let _ = decode::<Renamed>(json!({"v": v, "old_name": text}));
        }
    }
}
