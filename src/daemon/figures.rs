//! What a workspace has used over the last day, for the pictures on its page. It is in memory only.

use std::collections::VecDeque;
use std::time::Duration;

use crate::activity::Sample;
use crate::model::workspace::Timestamp;

/// The length of an interval.
pub const INTERVAL: Duration = Duration::from_secs(600);

/// The number of intervals: a day.
pub const INTERVALS: u64 = 144;

/// What was used in an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figure {
    /// The number of the interval since 1970.
    pub interval: u64,
    /// The most memory, in bytes.
    pub memory: u64,
    /// CPU time, in milliseconds.
    cpu_millis: u64,
    /// The time in which it was used, in milliseconds.
    elapsed: u64,
}

impl Figure {
    /// The number of the interval that contains a time.
    pub fn interval_of(at: Timestamp) -> u64 {
        at / INTERVAL.as_secs()
    }

    /// The average CPU use, in thousandths of a CPU.
    pub fn cpu(&self) -> u64 {
        self.cpu_millis.saturating_mul(1000) / self.elapsed.max(1)
    }
}

/// The figures of the last day, oldest first. Intervals without a sample are missing.
#[derive(Debug, Default)]
pub(super) struct Figures(VecDeque<Figure>);

impl Figures {
    /// Adds a sample.
    pub(super) fn add(&mut self, sample: &Sample, at: Timestamp) {
        let interval = Figure::interval_of(at);
        // After a jump of the clock back, what it had counted is not of the last day.
        while self.0.back().is_some_and(|last| last.interval > interval) {
            self.0.pop_back();
        }
        while self.0.front().is_some_and(|first| first.interval + INTERVALS <= interval) {
            self.0.pop_front();
        }
        if self.0.back().is_none_or(|last| last.interval < interval) {
            self.0.push_back(Figure { interval, memory: 0, cpu_millis: 0, elapsed: 0 });
        }
        if let Some(figure) = self.0.back_mut() {
            figure.memory = figure.memory.max(sample.memory);
            // The first sample has nothing to compare with.
            if sample.elapsed > 0 {
                figure.cpu_millis = figure.cpu_millis.saturating_add(sample.cpu);
                figure.elapsed = figure.elapsed.saturating_add(sample.elapsed);
            }
        }
    }

    /// The figures of the day that ends now.
    pub(super) fn last_day(&self, now: Timestamp) -> Vec<Figure> {
        let current = Figure::interval_of(now);
        let is_recent = |figure: &&Figure| figure.interval <= current && figure.interval + INTERVALS > current;
        self.0.iter().filter(is_recent).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(memory: u64, cpu: u64, elapsed: u64) -> Sample {
        Sample { elapsed, cpu, memory, ..Sample::default() }
    }

    #[test]
    fn an_interval_has_the_most_memory_and_the_average_cpu() {
        let mut figures = Figures::default();
        figures.add(&sample(7, 500, 0), 600);
        figures.add(&sample(9, 1000, 30_000), 630);
        figures.add(&sample(8, 2000, 30_000), 660);
        figures.add(&sample(1, 0, 30_000), 1300);
        let day = figures.last_day(1300);
        let shown: Vec<_> = day.iter().map(|figure| (figure.interval, figure.memory, figure.cpu())).collect();
        assert_eq!(shown, [(1, 9, 50), (2, 1, 0)]);
    }

    #[test]
    fn there_is_at_most_a_day_whatever_the_clock_and_the_samples_do() {
        let mut figures = Figures::default();
        for n in 0..1000 {
            figures.add(&sample(u64::MAX, u64::MAX, u64::MAX), n * 600);
            figures.add(&sample(u64::MAX, u64::MAX, u64::MAX), n * 600);
        }
        let day = figures.last_day(999 * 600);
        assert_eq!((day.len(), day[0].interval, figures.0.len()), (144, 856, 144));
        figures.add(&sample(1, 1, 1), 0);
        assert_eq!((figures.0.len(), figures.last_day(999 * 600).len()), (1, 0));
    }
}
