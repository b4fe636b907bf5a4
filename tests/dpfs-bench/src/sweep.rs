//! The sweep: several back-ends in turn over several depths, medians, CSV and pictures.
//!
//! Rounds go A B A B, so that a machine that slows down slows all of them down. The median of the rounds counts.

use std::fmt::Write as _;
use std::path::Path;

use plotters::prelude::*;

use crate::outcome::Outcome;

/// Hold the outcomes of one back-end at one depth, one for each round.
pub struct Point {
    /// Name of the back-end.
    pub target: String,
    /// Its outcomes.
    pub rounds: Vec<Outcome>,
}

impl Point {
    /// Give the round of the median rate.
    pub fn median(&self) -> &Outcome {
        let mut order: Vec<&Outcome> = self.rounds.iter().collect();
        order.sort_by(|a, b| a.rate().total_cmp(&b.rate()));
        order[order.len() / 2]
    }
}

/// Write every point, medians, as CSV.
pub fn csv(points: &[Point]) -> String {
    let mut text = String::from(
        "target,job,block_bytes,depth,queues,iops,mib_per_second,p50_us,p99_us,p999_us,max_us,backend_cpu_us\n",
    );
    for point in points {
        let o = point.median();
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{},{},{},{},{},{:.0},{:.1},{:.2},{:.2},{:.2},{:.2},{}",
            point.target,
            o.job,
            o.block,
            o.depth,
            o.queues,
            o.rate(),
            o.bandwidth() / f64::from(1 << 20),
            o.latency(0.5),
            o.latency(0.99),
            o.latency(0.999),
            o.latency(1.0),
            o.cpu().map_or(String::new(), |cpu| format!("{cpu:.3}")),
        );
    }
    text
}

/// Say how each back-end does next to the first one.
pub fn ratios(points: &[Point]) -> String {
    let mut text = String::new();
    for point in points {
        let own = point.median();
        let same = |other: &&Point| {
            let other = other.median();
            (&other.job, other.block, other.depth) == (&own.job, own.block, own.depth)
        };
        let Some(first) = points.iter().find(same) else {
            continue;
        };
        if first.target == point.target {
            continue;
        }
        let base = first.median();
        let cpu = own.cpu().zip(base.cpu());
        let cpu = cpu.map_or("n/a".to_string(), |(own, base)| {
            format!("{:.2}", own / base)
        });
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{} to {}: {}, {} bytes, depth {}: {:.2} times the rate, {cpu} times the processor time",
            point.target,
            first.target,
            own.job,
            own.block,
            own.depth,
            own.rate() / base.rate(),
        );
    }
    text
}

/// A line of a picture: its name and its points.
type Line = (String, Vec<(f64, f64)>);

fn targets(points: &[Point]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for point in points {
        if !names.contains(&point.target.as_str()) {
            names.push(&point.target);
        }
    }
    names
}

/// Draw the rate over the depth.
pub fn throughput(points: &[Point], path: &Path) -> Result<(), String> {
    let lines: Vec<Line> = targets(points)
        .into_iter()
        .map(|name| {
            let own = points.iter().filter(|point| point.target == name);
            let line = own.map(|point| {
                let outcome = point.median();
                (f64::from(outcome.depth), outcome.rate() / 1e3)
            });
            (name.to_string(), line.collect())
        })
        .collect();
    draw(path, "requests in flight", "thousand requests/s", &lines)
}

/// Draw, for the smallest depth, which share of the requests was answered within which time.
pub fn latency(points: &[Point], path: &Path) -> Result<(), String> {
    let depth = points.iter().map(|point| point.median().depth).min();
    let lines: Vec<Line> = points
        .iter()
        .filter(|point| Some(point.median().depth) == depth)
        .map(|point| {
            let outcome = point.median();
            let line = (1..=999).map(|permille| {
                let share = f64::from(permille) / 1e3;
                (outcome.latency(share), share * 100.0)
            });
            (point.target.clone(), line.collect())
        })
        .collect();
    draw(path, "microseconds", "% of requests", &lines)
}

fn draw(path: &Path, x: &str, y: &str, lines: &[Line]) -> Result<(), String> {
    let fail = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let all = || lines.iter().flat_map(|(_, line)| line);
    let (least, most) = all().fold((f64::MAX, 1.0_f64), |(a, b), p| (a.min(p.0), b.max(p.0)));
    let top = all().fold(0.0_f64, |top, point| top.max(point.1)) * 1.1;
    let area = SVGBackend::new(path, (720, 420)).into_drawing_area();
    area.fill(&WHITE).map_err(|error| fail(&error))?;
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d((least..most).log_scale(), 0.0..top)
        .map_err(|error| fail(&error))?;
    chart
        .configure_mesh()
        .x_desc(x)
        .y_desc(y)
        .draw()
        .map_err(|error| fail(&error))?;
    for (index, (name, line)) in lines.iter().enumerate() {
        let color = Palette99::pick(index).to_rgba();
        let style = color.stroke_width(2);
        chart
            .draw_series(LineSeries::new(line.iter().copied(), style))
            .map_err(|error| fail(&error))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()
        .map_err(|error| fail(&error))?;
    area.present().map_err(|error| fail(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::tests::outcome;

    fn points() -> Vec<Point> {
        let point = |target: &str, rates: &[u64]| Point {
            target: target.to_string(),
            rounds: rates.iter().map(|&rate| outcome(rate, 1.0)).collect(),
        };
        vec![point("a", &[100, 900, 300]), point("b", &[50])]
    }

    #[test]
    fn the_median_round_counts() {
        let csv = csv(&points());
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].starts_with("a,randread,4096,1,1,300,"), "{csv}");
    }

    #[test]
    fn ratios_are_to_the_first_back_end() {
        let text = ratios(&points());
        let expected = "b to a: randread, 4096 bytes, depth 1: 0.17 times the rate, 6.00 times";
        assert!(text.starts_with(expected), "{text}");
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn pictures_name_every_back_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.svg");
        for draw in [throughput, latency] {
            draw(&points(), &path).unwrap();
            let svg = std::fs::read_to_string(&path).unwrap();
            assert!(svg.contains("<svg") && svg.contains("polyline"));
            assert!(svg.contains(">\na\n") && svg.contains(">\nb\n"), "{svg}");
        }
    }
}
