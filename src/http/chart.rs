//! Small pictures of what a workspace has used over the last day, as SVG without styles and scripts.

use std::fmt::Write as _;

use askama::Template;

use crate::daemon::figures::{Figure, INTERVALS};
use crate::model::size::human_bytes;
use crate::model::workspace::{Limits, Timestamp};

/// The size in the picture's own units: 4 for each interval.
const BAR: u64 = 4;
const WIDTH: u64 = BAR * INTERVALS;
const HEIGHT: u64 = 96;

/// A picture with bars from nothing to a limit.
#[derive(Template)]
#[template(path = "chart.html")]
pub(super) struct Chart {
    id: &'static str,
    title: &'static str,
    /// What the picture shows, for everyone who does not see it.
    text: String,
    bars: String,
}

impl Chart {
    #[expect(clippy::unused_self, reason = "templates call methods")]
    fn width(&self) -> u64 {
        WIDTH
    }

    #[expect(clippy::unused_self, reason = "templates call methods")]
    fn height(&self) -> u64 {
        HEIGHT
    }
}

/// The pictures of memory and CPU.
pub(super) fn charts(figures: &[Figure], limits: &Limits, now: Timestamp) -> [Chart; 2] {
    let memory: Vec<(u64, u64)> = figures.iter().map(|figure| (figure.interval, figure.memory)).collect();
    let cpu: Vec<(u64, u64)> = figures.iter().map(|figure| (figure.interval, figure.cpu())).collect();
    let most = |values: &[(u64, u64)]| values.iter().map(|(_, value)| *value).max();
    let none = || "not measured in the last day".to_owned();
    let cpus = |millis: u64| format!("{}.{:02}", millis / 1000, millis % 1000 / 10);
    let limit = limits.memory.get();
    let memory_text =
        most(&memory).map_or_else(none, |most| format!("at most {} of {}", human_bytes(most), human_bytes(limit)));
    let cpu_text = most(&cpu).map_or_else(none, |most| {
        let average = cpu.iter().map(|(_, value)| u128::from(*value)).sum::<u128>() / cpu.len().max(1) as u128;
        let average = u64::try_from(average).unwrap_or(u64::MAX);
        format!("on average {}, at most {} of {} CPUs", cpus(average), cpus(most), limits.cpu)
    });
    let chart =
        |id, title, text, values: &[(u64, u64)], limit| Chart { id, title, text, bars: bars(values, limit, now) };
    [
        chart("memory", "Memory", memory_text, &memory, limit),
        chart("cpu", "CPU", cpu_text, &cpu, u64::from(limits.cpu.millis())),
    ]
}

/// The bars as an SVG path. Each that is not 0 can be seen, and none is higher than the limit.
fn bars(values: &[(u64, u64)], limit: u64, now: Timestamp) -> String {
    let current = Figure::interval_of(now);
    values.iter().fold(String::new(), |mut path, (interval, value)| {
        let Some(x) = (INTERVALS - 1).checked_sub(current.saturating_sub(*interval)) else { return path };
        let height = u128::from(*value) * u128::from(HEIGHT) / u128::from(limit.max(1));
        let height = u64::try_from(height).unwrap_or(HEIGHT).clamp(u64::from(*value > 0), HEIGHT);
        let _ = write!(path, "M{} {HEIGHT}v-{height}h{BAR}v{height}z", x * BAR);
        path
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_between_visible_and_the_limit_and_the_newest_is_at_the_right() {
        let now = 600 * 1000;
        assert_eq!(bars(&[(1000, 50)], 100, now), "M572 96v-48h4v48z");
        assert_eq!(bars(&[(857, 1), (999, 0)], 1 << 40, now), "M0 96v-1h4v1zM568 96v-0h4v0z");
        assert_eq!(bars(&[(856, 1)], 100, now), "", "older than a day");
        assert_eq!(bars(&[(1000, u64::MAX)], 100, now), "M572 96v-96h4v96z");
    }

    #[test]
    fn without_figures_the_text_says_so() {
        let limits = Limits {
            memory: "3G".parse().unwrap(),
            memory_high: "2G".parse().unwrap(),
            cpu: "1.5".parse().unwrap(),
            tasks: 4096,
        };
        let [memory, cpu] = charts(&[], &limits, 0);
        assert_eq!((memory.text.as_str(), cpu.bars.as_str()), ("not measured in the last day", ""));
    }
}
