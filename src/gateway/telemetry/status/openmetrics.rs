//! The status as OpenMetrics text (<https://prometheus.io/docs/specs/om/open_metrics_spec/>), for Prometheus and its kin.
//!
//! Written from the snapshot at each scrape, so that a request costs nothing but the metrics's own counting.
//! Counts of the server as a whole only ever grow: neither a reload nor the end of a worker takes anything from them.

use std::fmt::{self, Display, Write};
use std::time::UNIX_EPOCH;

use crate::gateway::telemetry::verdict::Verdict;
use crate::link::status::{Latency, Status, Worker, WorkerTimes};

/// The names of all metrics begin with this.
const PREFIX: &str = "nibiru_";

const SECONDS: &str = "seconds";
const BYTES: &str = "bytes";

/// The exposition.
pub(super) fn text(status: &Status) -> String {
    let mut metrics = Metrics(String::new());
    metrics.about(status);
    metrics.requests(status);
    metrics.queue_connections_and_spool(status);
    metrics.workers(status);
    metrics.0 + "# EOF\n"
}

/// The text, to which families of metrics are appended, each whole.
struct Metrics(String);

impl Metrics {
    fn about(&mut self, status: &Status) {
        let info: [Label<'_>; 2] = [("version", &status.version), ("app", &status.app)];
        self.family("server", "The server", "", "info").sample("_info", &info, 1);
        let started = status.started.0.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        self.gauge("start_time", "When the server started", SECONDS, Float(started));
        self.gauge("generation", "Generation of the code that answers", "", status.generation);
        let help = "How the server does: 1 for what is true";
        let mut verdicts = self.family("verdict", help, "", "gauge");
        for name in Verdict::ALL.map(Verdict::name) {
            verdicts.sample("", &[("verdict", &name)], u32::from(name == status.verdict));
        }
        let results = [("ok", status.reloads.ok), ("failed", status.reloads.failed)];
        self.counters("reloads", "Loads of the code, the first one included", "result", results);
    }

    fn requests(&mut self, status: &Status) {
        let requests = &status.requests;
        let help = "Requests that have ended, by the status that was sent";
        self.counters("requests", help, "status", requests.by_status.clone());
        let help = "Requests whose client went away first, or whose answer broke off after its head";
        let ends = [("aborted", requests.aborted), ("broken", requests.broken)];
        self.counters("unfinished_requests", help, "end", ends);
        let help = "Requests that the server itself answered, since no worker could have them";
        self.counters("refused_requests", help, "reason", requests.refused.clone());
        let help = "Sent to clients as response bodies";
        self.counter("response_body", help, BYTES, requests.body_bytes);
        self.histogram("queue_wait", "From a complete request to a worker", &status.queue_wait);
        self.histogram("service_time", "From a worker to the end of its answer", &status.service_time);
        let help = "Lines of the access log that could not be written";
        let dropped = status.access_log.as_ref().map(|log| log.dropped);
        if let Some(dropped) = dropped {
            self.counter("access_log_dropped_lines", help, "", dropped);
        }
    }

    fn queue_connections_and_spool(&mut self, status: &Status) {
        let (queue, connections) = (&status.queue, &status.connections);
        self.gauge("queue_length", "Requests that wait for a worker", "", queue.length);
        self.gauge("queue_capacity", "Requests that may wait for a worker", "", queue.capacity);
        let help = "How long the oldest request has waited";
        self.gauge("queue_oldest_wait", help, SECONDS, Float(queue.oldest_wait));
        let help = "Whether the newest requests go first and the oldest are refused";
        self.gauge("queue_overloaded", help, "", u32::from(queue.overloaded));
        self.gauge("connections", "Connections that are open", "", connections.open);
        self.gauge("connections_max", "Connections that may be open", "", connections.max);
        self.counter("accepted_connections", "Connections since the start", "", connections.accepted);
        let help = "Connections of peers that may not connect";
        self.counter("refused_connections", help, "", connections.refused);
        let help = "Connections closed because what came was no FastCGI";
        self.counter("malformed_connections", help, "", connections.malformed);
        let (memory, spool) = (&status.buffer_memory, &status.spool);
        self.gauge("buffer_memory", "Requests and answers in memory", BYTES, memory.bytes);
        self.gauge("buffer_memory_max", "As much as there may be of them", BYTES, memory.max);
        self.gauge("spool", "Request bodies and slow clients' answers in files", BYTES, spool.bytes);
        self.gauge("spool_max", "As much as there may be of them", BYTES, spool.max);
    }

    fn workers(&mut self, status: &Status) {
        let pool = &status.pool;
        let mut states = self.family("workers", "By what they do", "", "gauge");
        for (state, count) in
            [("starting", pool.starting), ("idle", pool.idle), ("busy", pool.busy), ("leaving", pool.leaving)]
        {
            states.sample("", &[("state", &state)], count);
        }
        self.gauge("workers_max", "Workers there may be", "", pool.max);
        self.counter("started_workers", "Workers that were forked", "", pool.started);
        self.counters("ended_workers", "Workers that have ended", "how", pool.ended.clone());

        let help = "Requests that this worker was given";
        let mut counter = self.family("worker_requests", help, "", "counter");
        for worker in &status.workers {
            counter.sample("_total", &labels(&worker.number, &worker.generation), worker.requests);
        }
        let age = |worker: &Worker| worker.age.map(Float);
        self.of_workers("worker_age", "Since this worker was forked", SECONDS, status, age);
        let help = "This worker's share of the memory (PSS)";
        self.of_workers("worker_memory", help, BYTES, status, |worker| worker.pss);
        let help = "Memory of this worker's Lua state";
        self.of_workers("worker_lua_heap", help, BYTES, status, |worker| worker.lua_heap);
        let help = "From a complete request to this worker";
        self.histogram_of_workers("worker_queue_wait", help, status, |times| &times.queue_wait);
        let help = "From this worker to the end of its answer";
        self.histogram_of_workers("worker_service_time", help, status, |times| &times.service_time);
    }

    /// A histogram for each number and generation of a worker. Histograms of generations that are gone are in the totals only.
    fn histogram_of_workers(
        &mut self,
        name: &str,
        help: &str,
        status: &Status,
        latency: impl Fn(&WorkerTimes) -> &Latency,
    ) {
        if status.times.is_empty() {
            return;
        }
        let mut family = self.family(name, help, SECONDS, "histogram");
        for times in &status.times {
            family.histogram(&labels(&times.worker, &times.generation), latency(times));
        }
    }

    /// A gauge of each worker that has it; nothing at all where none has.
    fn of_workers<T: Display>(
        &mut self,
        name: &str,
        help: &str,
        unit: &str,
        status: &Status,
        value: impl Fn(&Worker) -> Option<T>,
    ) {
        let mut values = status.workers.iter().filter_map(|worker| Some((worker, value(worker)?))).peekable();
        if values.peek().is_none() {
            return;
        }
        let mut family = self.family(name, help, unit, "gauge");
        for (worker, value) in values {
            family.sample("", &labels(&worker.number, &worker.generation), value);
        }
    }

    fn gauge(&mut self, name: &str, help: &str, unit: &str, value: impl Display) {
        self.family(name, help, unit, "gauge").sample("", &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, unit: &str, value: u64) {
        self.family(name, help, unit, "counter").sample("_total", &[], value);
    }

    /// A counter for each value of a label.
    fn counters(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (impl Display, u64)>,
    ) {
        let mut family = self.family(name, help, "", "counter");
        for (value, count) in values {
            family.sample("_total", &[(label, &value)], count);
        }
    }

    fn histogram(&mut self, name: &str, help: &str, latency: &Latency) {
        self.family(name, help, SECONDS, "histogram").histogram(&[], latency);
    }

    /// Begins a family: its name ends with its unit, if it has one.
    fn family(&mut self, name: &str, help: &str, unit: &str, kind: &str) -> Family<'_> {
        let separator = if unit.is_empty() { "" } else { "_" };
        let name = format!("{PREFIX}{name}{separator}{unit}");
        put(&mut self.0, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        if !unit.is_empty() {
            put(&mut self.0, format_args!("# UNIT {name} {unit}\n"));
        }
        Family { text: &mut self.0, name }
    }
}

/// A label's name and value.
type Label<'a> = (&'a str, &'a dyn Display);

/// A family whose samples are being appended.
struct Family<'a> {
    text: &'a mut String,
    name: String,
}

impl Family<'_> {
    fn sample(&mut self, suffix: &str, labels: &[Label<'_>], value: impl Display) {
        put(self.text, format_args!("{}{suffix}{} {value}\n", self.name, Labels(labels)));
    }

    fn histogram(&mut self, labels: &[Label<'_>], latency: &Latency) {
        self.sample("_sum", labels, Float(latency.sum));
        self.sample("_count", labels, latency.count);
        let mut cumulative = 0;
        for bucket in &latency.buckets {
            cumulative += bucket.count;
            let bound = Float(bucket.le.unwrap_or(f64::INFINITY));
            let labels: Vec<Label<'_>> =
                std::iter::once(("le", &bound as &dyn Display)).chain(labels.iter().copied()).collect();
            self.sample("_bucket", &labels, cumulative);
        }
    }
}

/// The labels that tell a worker from the others.
fn labels<'a>(worker: &'a u32, generation: &'a u32) -> [Label<'a>; 2] {
    [("worker", worker), ("generation", generation)]
}

/// Labels in braces; nothing where there are none.
struct Labels<'a>(&'a [Label<'a>]);

impl Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.0.iter().enumerate() {
            f.write_char(if index == 0 { '{' } else { ',' })?;
            // "label-value-char": a backslash, a quote and a line feed are escaped.
            let value = value.to_string().replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n");
            write!(f, "{name}=\"{value}\"")?;
        }
        if self.0.is_empty() { Ok(()) } else { f.write_char('}') }
    }
}

/// A number with a fraction, `1.0` for a whole one ("Numbers" recommends it: a bucket's bound must not change its name).
struct Float(f64);

impl Display for Float {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            f64::INFINITY => f.write_str("+Inf"),
            whole if whole.fract() == 0.0 => write!(f, "{whole:.1}"),
            number => write!(f, "{number}"),
        }
    }
}

fn put(text: &mut String, arguments: fmt::Arguments<'_>) {
    // A string takes everything.
    let _ = text.write_fmt(arguments);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::status::Bucket;

    #[test]
    fn a_family_has_its_unit_in_its_name_and_labels_are_escaped() {
        let mut metrics = Metrics(String::new());
        metrics.family("age", "Since the start", SECONDS, "gauge").sample(
            "",
            &[("app", &"a\"\\\nb"), ("n", &1)],
            Float(2.0),
        );
        let expected = "# HELP nibiru_age_seconds Since the start\n\
            # TYPE nibiru_age_seconds gauge\n\
            # UNIT nibiru_age_seconds seconds\n\
            nibiru_age_seconds{app=\"a\\\"\\\\\\nb\",n=\"1\"} 2.0\n";
        assert_eq!(metrics.0, expected);
    }

    #[test]
    fn the_buckets_of_a_histogram_add_up() {
        let buckets = [(Some(0.000_5), 1), (Some(1.0), 2), (None, 3)].map(|(le, count)| Bucket { le, count });
        let latency =
            Latency { count: 6, sum: 7.25, p50: None, p90: None, p99: None, buckets: buckets.into() };
        let mut metrics = Metrics(String::new());
        metrics.family("wait", "Waits", SECONDS, "histogram").histogram(&labels(&3, &2), &latency);
        let samples: Vec<_> = metrics.0.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                r#"nibiru_wait_seconds_sum{worker="3",generation="2"} 7.25"#,
                r#"nibiru_wait_seconds_count{worker="3",generation="2"} 6"#,
                r#"nibiru_wait_seconds_bucket{le="0.0005",worker="3",generation="2"} 1"#,
                r#"nibiru_wait_seconds_bucket{le="1.0",worker="3",generation="2"} 3"#,
                r#"nibiru_wait_seconds_bucket{le="+Inf",worker="3",generation="2"} 6"#,
            ]
        );
    }
}
