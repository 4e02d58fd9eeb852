//! One event as one record of the log: a line of text, or a JSON object.

use std::fmt;
use std::time::SystemTime;

use clap::ValueEnum;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

use super::{escape, fields};

/// The format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// One object a line
    Json,
}

/// The time of a log line, in UTC with milliseconds.
pub(crate) fn timestamp(time: SystemTime) -> impl fmt::Display {
    humantime::format_rfc3339_millis(time)
}

/// A formatter that writes each event as one record.
///
/// Text: `TIME LEVEL PROCESS MESSAGE name=value…`; the further lines of a message (a traceback) follow indented, so that an
/// application cannot imitate a record. JSON: one object. Both are escaped alike, because `jq -r` also ends at a terminal.
pub(super) struct Record(pub(super) Format);

impl<S, N> FormatEvent<S, N> for Record
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let time = timestamp(SystemTime::now());
        let level = event.metadata().level();
        // Events without a process come from the gateway, which writes the log.
        let process = fields.process.as_deref().unwrap_or("gateway");
        match self.0 {
            Format::Text => {
                let message = escape::text(fields.message.as_bytes());
                let (first, rest) = message.split_once('\n').unwrap_or((&message, ""));
                write!(writer, "{time} {level:5} {process} {first}")?;
                fields::write(&mut writer, &fields.of_application)?;
                fields::write(&mut writer, &fields.others)?;
                rest.trim_end().lines().try_for_each(|line| write!(writer, "\n    {line}"))?;
            }
            Format::Json => {
                let mut object = Map::new();
                object.insert("time".to_owned(), time.to_string().into());
                object.insert("level".to_owned(), level.as_str().to_lowercase().into());
                object.insert("process".to_owned(), process.into());
                object.insert("message".to_owned(), escape::text(fields.message.as_bytes()).into());
                // The server's own fields come last, so that they win.
                let all = fields.of_application.into_iter().chain(fields.others);
                object.extend(all.map(|(name, value)| match value {
                    Value::String(text) => (name, escape::text(text.as_bytes()).into()),
                    plain => (name, plain),
                }));
                write!(writer, "{}", Value::Object(object))?;
            }
        }
        writer.write_char('\n')
    }
}

/// The fields of an event. Message, process and the application's fields are kept apart.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    process: Option<String>,
    /// The fields that an application gave its line.
    of_application: Map<String, Value>,
    others: Map<String, Value>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: Value) {
        let text = |value: Value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        match field.name() {
            "message" => self.message = text(value),
            "process" => self.process = Some(text(value)),
            "fields" => self.of_application = fields::decode(&text(value)),
            name => {
                self.others.insert(name.to_owned(), value);
            }
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value.into());
    }
}
