//! The status as OpenMetrics text, for Prometheus and its kin.
//!
//! A registry is built from the snapshot at each scrape, so that a request costs nothing but the journal's own counting.
//! What is counted for the server as a whole only ever grows: neither a reload nor the end of a worker takes anything
//! from it.

use std::fmt;
use std::time::UNIX_EPOCH;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::gateway::telemetry::status::model::{Bucket, Latency, Status, Worker, WorkerTimes};
use crate::gateway::telemetry::verdict::Verdict;

/// The exposition.
pub(super) fn text(status: Status) -> String {
    let mut registry = Registry::with_prefix("nibiru");
    registry.register_collector(Box::new(Exposition(status)));
    let mut text = String::new();
    // A string takes everything.
    let _ = text::encode(&mut text, &registry);
    text
}

#[derive(Debug)]
struct Exposition(Status);

impl Collector for Exposition {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut metrics = Metrics(encoder);
        let status = &self.0;
        metrics.about(status)?;
        metrics.requests(status)?;
        metrics.queue_connections_and_spool(status)?;
        metrics.workers(status)
    }
}

/// Writes families of metrics, each at once.
struct Metrics<'a>(DescriptorEncoder<'a>);

impl Metrics<'_> {
    fn about(&mut self, status: &Status) -> fmt::Result {
        let info = [("version", status.version), ("app", &status.app)];
        self.0.encode_descriptor("server", "The server", None, MetricType::Info)?.encode_info(&info)?;
        let started = status.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        self.gauge("start_time", "When the server started", Some(&Unit::Seconds), &started)?;
        self.gauge("generation", "Generation of the code that answers", None, &status.generation)?;
        let help = "How the server does: 1 for what is true";
        let mut verdicts = self.0.encode_descriptor("verdict", help, None, MetricType::Gauge)?;
        for name in Verdict::ALL.map(Verdict::name) {
            let is_it = u32::from(name == status.verdict);
            verdicts.encode_family(&[("verdict", name)])?.encode_gauge(&is_it)?;
        }
        let results = [("ok", status.reloads.ok), ("failed", status.reloads.failed)];
        self.counters("reloads", "Loads of the code, the first one included", "result", results)
    }

    fn requests(&mut self, status: &Status) -> fmt::Result {
        let requests = &status.requests;
        let help = "Requests that have ended, by the status that was sent";
        self.counters("requests", help, "status", requests.by_status.clone())?;
        let help = "Requests whose client went away first, or whose answer broke off after its head";
        let ends = [("aborted", requests.aborted), ("broken", requests.broken)];
        self.counters("unfinished_requests", help, "end", ends)?;
        let help = "Requests that the server itself answered, since no worker could have them";
        self.counters("refused_requests", help, "reason", requests.refused.clone())?;
        let help = "Sent to clients as response bodies";
        self.counter("response_body", help, Some(&Unit::Bytes), requests.body_bytes)?;
        self.histogram("queue_wait", "From a complete request to a worker", &status.queue_wait)?;
        self.histogram("service_time", "From a worker to the end of its answer", &status.service_time)?;
        let help = "Lines of the access log that could not be written";
        let dropped = status.access_log.as_ref().map(|log| log.dropped);
        dropped.map_or(Ok(()), |dropped| self.counter("access_log_dropped_lines", help, None, dropped))
    }

    fn queue_connections_and_spool(&mut self, status: &Status) -> fmt::Result {
        let (queue, connections) = (&status.queue, &status.connections);
        self.gauge("queue_length", "Requests that wait for a worker", None, &queue.length)?;
        self.gauge("queue_capacity", "Requests that may wait for a worker", None, &queue.capacity)?;
        let help = "How long the oldest request has waited";
        self.gauge("queue_oldest_wait", help, Some(&Unit::Seconds), &queue.oldest_wait)?;
        let help = "Whether the newest requests go first and the oldest are refused";
        self.gauge("queue_overloaded", help, None, &i64::from(queue.overloaded))?;
        self.gauge("connections", "Connections that are open", None, &connections.open)?;
        self.gauge("connections_max", "Connections that may be open", None, &connections.max)?;
        self.counter("accepted_connections", "Connections since the start", None, connections.accepted)?;
        let help = "Connections of peers that may not connect";
        self.counter("refused_connections", help, None, connections.refused)?;
        let help = "Connections closed because what came was no FastCGI";
        self.counter("malformed_connections", help, None, connections.malformed)?;
        let (bytes, memory, spool) = (Some(&Unit::Bytes), &status.buffer_memory, &status.spool);
        self.gauge("buffer_memory", "Requests and answers in memory", bytes, &memory.bytes)?;
        self.gauge("buffer_memory_max", "As much as there may be of them", bytes, &memory.max)?;
        self.gauge("spool", "Request bodies and slow clients' answers in files", bytes, &spool.bytes)?;
        self.gauge("spool_max", "As much as there may be of them", bytes, &spool.max)
    }

    fn workers(&mut self, status: &Status) -> fmt::Result {
        let pool = &status.pool;
        let mut states = self.0.encode_descriptor("workers", "By what they do", None, MetricType::Gauge)?;
        for (state, count) in
            [("starting", pool.starting), ("idle", pool.idle), ("busy", pool.busy), ("leaving", pool.leaving)]
        {
            states.encode_family(&[("state", state)])?.encode_gauge(&count)?;
        }
        self.gauge("workers_max", "Workers there may be", None, &pool.max)?;
        self.counter("started_workers", "Workers that were forked", None, pool.started)?;
        self.counters("ended_workers", "Workers that have ended", "how", pool.ended.clone())?;

        let help = "Requests that this worker was given";
        let mut counter = self.0.encode_descriptor("worker_requests", help, None, MetricType::Counter)?;
        for worker in &status.workers {
            encode_counter(&mut counter.encode_family(&labels(worker))?, u64::from(worker.requests))?;
        }
        let (seconds, bytes) = (Some(&Unit::Seconds), Some(&Unit::Bytes));
        let age = |worker: &Worker| Some(worker.age);
        self.of_workers("worker_age", "Since this worker was forked", seconds, status, age)?;
        let help = "This worker's share of the memory (PSS)";
        self.of_workers("worker_memory", help, bytes, status, |worker| worker.pss)?;
        let help = "Memory of this worker's Lua state";
        self.of_workers("worker_lua_heap", help, bytes, status, |worker| worker.lua_heap)?;
        let help = "From a complete request to this worker";
        self.histogram_of_workers("worker_queue_wait", help, status, |times| &times.queue_wait)?;
        let help = "From this worker to the end of its answer";
        self.histogram_of_workers("worker_service_time", help, status, |times| &times.service_time)
    }

    /// A histogram for each number and generation of a worker. Those of generations that are gone are in the totals only.
    fn histogram_of_workers(
        &mut self,
        name: &str,
        help: &str,
        status: &Status,
        latency: impl Fn(&WorkerTimes) -> &Latency,
    ) -> fmt::Result {
        if status.times.is_empty() {
            return Ok(());
        }
        let mut encoder =
            self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for times in &status.times {
            let labels = [("worker", times.worker), ("generation", times.generation)];
            encode_histogram(&mut encoder.encode_family(&labels)?, latency(times))?;
        }
        Ok(())
    }

    /// A gauge of each worker that has it; nothing at all where none has.
    fn of_workers<T: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        status: &Status,
        value: impl Fn(&Worker) -> Option<T>,
    ) -> fmt::Result {
        let mut values = status.workers.iter().filter_map(|worker| Some((worker, value(worker)?))).peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        let mut encoder = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (worker, value) in values {
            encoder.encode_family(&labels(worker))?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: &impl EncodeGaugeValue,
    ) -> fmt::Result {
        self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(value)
    }

    fn counter(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: u64) -> fmt::Result {
        encode_counter(&mut self.0.encode_descriptor(name, help, unit, MetricType::Counter)?, value)
    }

    /// A counter for each value of a label.
    fn counters(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: impl IntoIterator<Item = (&'static str, u64)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (value, count) in values {
            encode_counter(&mut encoder.encode_family(&[(label, value)])?, count)?;
        }
        Ok(())
    }

    fn histogram(&mut self, name: &str, help: &str, latency: &Latency) -> fmt::Result {
        let mut encoder =
            self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        encode_histogram(&mut encoder, latency)
    }
}

fn encode_histogram(encoder: &mut MetricEncoder<'_>, latency: &Latency) -> fmt::Result {
    let bound = |bucket: &Bucket| (bucket.le.unwrap_or(f64::INFINITY), bucket.count);
    let buckets: Vec<(f64, u64)> = latency.buckets.iter().map(bound).collect();
    encoder.encode_histogram::<NoLabelSet>(latency.sum, latency.count, &buckets, None)
}

fn encode_counter(encoder: &mut MetricEncoder<'_>, value: u64) -> fmt::Result {
    encoder.encode_counter::<NoLabelSet, _, f64>(&value, None)
}

fn labels(worker: &Worker) -> [(&'static str, u32); 2] {
    [("worker", worker.number), ("generation", worker.generation)]
}
