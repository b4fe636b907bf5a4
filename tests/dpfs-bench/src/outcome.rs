//! What a run found, as a table and as JSON.

use comfy_table::{CellAlignment, Table, presets};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::usage::Usage;

/// Hold the figures of one run.
#[derive(Clone)]
pub struct Outcome {
    /// Name of the job.
    pub job: String,
    /// Bytes of each READ and WRITE; zero for jobs without.
    pub block: u32,
    /// Requests in flight for each queue.
    pub depth: u16,
    /// Request queues.
    pub queues: u16,
    /// Requests measured.
    pub requests: u64,
    /// Seconds measured.
    pub seconds: f64,
    /// Nanoseconds from a request's publication to the sight of its answer.
    pub latencies: Histogram<u64>,
    /// What the back-end used, where it is a process of its own.
    pub usage: Option<Usage>,
    /// Notifications sent to the back-end.
    pub kicks: u64,
}

/// Make an empty record of latencies up to a minute, three digits exact.
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds that fit each other")
}

impl Outcome {
    /// Give the requests per second.
    pub fn rate(&self) -> f64 {
        self.requests as f64 / self.seconds.max(1e-9)
    }

    /// Give the bytes per second.
    pub fn bandwidth(&self) -> f64 {
        self.rate() * f64::from(self.block)
    }

    /// Give a quantile of the latency in microseconds.
    pub fn latency(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1e3
    }

    fn per_request(&self, count: u64) -> f64 {
        count as f64 / self.requests.max(1) as f64
    }

    /// Give the back-end's processor time per request in microseconds.
    pub fn cpu(&self) -> Option<f64> {
        self.usage.map(|usage| self.per_request(usage.cpu) / 1e3)
    }

    /// Give all figures, units in the names.
    pub fn json(&self, target: &str) -> Value {
        json!({
            "target": target,
            "job": self.job,
            "block_bytes": self.block,
            "depth": self.depth,
            "queues": self.queues,
            "requests": self.requests,
            "seconds": self.seconds,
            "iops": self.rate(),
            "bytes_per_second": self.bandwidth(),
            "p50_us": self.latency(0.5),
            "p99_us": self.latency(0.99),
            "p999_us": self.latency(0.999),
            "max_us": self.latency(1.0),
            "backend_cpu_us": self.cpu(),
            "backend_voluntary_switches": self.usage.map(|usage| self.per_request(usage.voluntary)),
            "backend_involuntary_switches": self.usage.map(|usage| self.per_request(usage.involuntary)),
            "backend_io_calls": self.usage.map(|usage| self.per_request(usage.io_calls)),
            "backend_calls": self.usage.and_then(|usage| usage.calls).map(|calls| self.per_request(calls)),
            "kicks": self.per_request(self.kicks),
        })
    }
}

/// Draw a table of outcomes.
pub fn table(outcomes: &[(String, Outcome)]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_HORIZONTAL_ONLY)
        .set_header([
            "target",
            "job",
            "block",
            "depth",
            "queues",
            "IOPS",
            "MiB/s",
            "p50 us",
            "p99 us",
            "p99.9 us",
            "max us",
            "cpu us",
            "sleeps",
            "preempted",
            "r/w calls",
            "calls",
            "kicks",
        ]);
    for (target, outcome) in outcomes {
        let used = |count: fn(&Usage) -> Option<u64>| {
            let count = outcome.usage.as_ref().and_then(count);
            count.map_or("n/a".to_string(), |count| {
                format!("{:.2}", outcome.per_request(count))
            })
        };
        table.add_row([
            target.clone(),
            outcome.job.clone(),
            outcome.block.to_string(),
            outcome.depth.to_string(),
            outcome.queues.to_string(),
            format!("{:.0}", outcome.rate()),
            format!("{:.1}", outcome.bandwidth() / f64::from(1 << 20)),
            format!("{:.1}", outcome.latency(0.5)),
            format!("{:.1}", outcome.latency(0.99)),
            format!("{:.1}", outcome.latency(0.999)),
            format!("{:.1}", outcome.latency(1.0)),
            outcome
                .cpu()
                .map_or("n/a".to_string(), |cpu| format!("{cpu:.2}")),
            used(|usage| Some(usage.voluntary)),
            used(|usage| Some(usage.involuntary)),
            used(|usage| Some(usage.io_calls)),
            used(|usage| usage.calls),
            format!("{:.2}", outcome.per_request(outcome.kicks)),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn outcome(requests: u64, seconds: f64) -> Outcome {
        let mut latencies = latencies();
        for latency in 1..=1000 {
            latencies.record(latency * 1000).unwrap();
        }
        Outcome {
            job: "randread".to_string(),
            block: 4096,
            depth: 1,
            queues: 1,
            requests,
            seconds,
            latencies,
            usage: Some(Usage {
                cpu: 5_000_000,
                voluntary: 10,
                involuntary: 0,
                io_calls: 0,
                calls: Some(2000),
            }),
            kicks: 50,
        }
    }

    #[test]
    fn figures_are_in_the_units_that_their_names_say() {
        let outcome = outcome(1000, 0.5);
        let json = outcome.json("x");
        assert_eq!(json["iops"], 2000.0);
        assert_eq!(json["bytes_per_second"], 2000.0 * 4096.0);
        assert_eq!(json["backend_cpu_us"], 5.0);
        assert_eq!(json["backend_calls"], 2.0);
        assert_eq!(json["kicks"], 0.05);
        let p50 = json["p50_us"].as_f64().unwrap();
        assert!((499.0..502.0).contains(&p50), "{p50}");
    }
}
