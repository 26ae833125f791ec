//! An answer of one line of JSON: of the control socket, and of one appliance to the other.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What went wrong, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    NotFound,
    BadRequest,
    /// Not now or not in this configuration.
    Unavailable,
    /// Asked, and the answer is no.
    Refused,
    Internal,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub code: ErrorCode,
    /// For people: what, why, and where it helps the remedy.
    pub message: String,
}

impl Failure {
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, message)
    }
}

/// `{"ok":true,"data":…}` or `{"ok":false,"error":{"code":…,"message":…}}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    ok: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
}

impl Answer {
    /// # Errors
    /// The failure that the daemon tells, or `Internal` when the answer does not have the promised shape.
    pub fn into_result<T: DeserializeOwned>(self) -> Result<T, Failure> {
        let broken = |what: String| Failure::new(ErrorCode::Internal, what);
        match (self.ok, self.data, self.error) {
            (true, data, None) => serde_json::from_value(data.unwrap_or_default())
                .map_err(|error| broken(format!("the daemon's answer has another shape: {error}"))),
            (false, _, Some(error)) => Err(error),
            _ => Err(broken("the daemon's answer contradicts itself".into())),
        }
    }

    /// What came of it, in a word, and why not or what of it.
    pub(crate) fn for_audit(&self) -> (&'static str, String) {
        match (&self.error, &self.data) {
            (Some(error), _) => ("failed", error.message.clone()),
            (None, Some(Value::Object(data))) => {
                // A ticket that was issued is a secret; the rest of the answer says what it is for.
                // A bundle or a piece of a file is no record either.
                let told = data.iter().filter(|(key, _)| !["ticket", "data"].contains(&key.as_str()));
                let told: serde_json::Map<_, _> =
                    told.map(|(key, value)| (key.clone(), value.clone())).collect();
                ("done", Value::Object(told).to_string())
            }
            (None, _) => ("done", String::new()),
        }
    }

    /// Why not, if the answer is no.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.error.as_ref().map(|error| error.message.clone())
    }

    /// The answer line, newline included.
    #[must_use]
    pub fn to_line(&self) -> Vec<u8> {
        // Nothing in an answer can fail to serialise: all its keys are strings.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

impl From<Result<Value, Failure>> for Answer {
    fn from(result: Result<Value, Failure>) -> Self {
        match result {
            Ok(data) => Self { ok: true, data: Some(data), error: None },
            Err(error) => Self { ok: false, data: None, error: Some(error) },
        }
    }
}
