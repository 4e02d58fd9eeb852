//! The status as JSON, for the control socket and the status path.

use serde_json::Value;

use crate::link::status::Status;

/// The status as an object, for an answer of the control socket.
pub(crate) fn value(status: &Status) -> Result<Value, String> {
    serde_json::to_value(status).map_err(|error| error.to_string())
}

/// The status as text, for the status path.
pub(super) fn text(status: &Status) -> String {
    // Numbers, strings and maps with names for keys: nothing in a status fails to serialize.
    serde_json::to_string(status).unwrap_or_default()
}
