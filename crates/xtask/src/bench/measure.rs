//! Repeated measurements: taking turns, the median and the spread.

use crate::failure::Result;
use serde::Serialize;

/// What several runs of one measurement gave, in the unit of the section.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// The middle value.
    pub median: f64,
    /// The smallest value.
    pub low: f64,
    /// The largest value.
    pub high: f64,
    /// Every value, in the order of measurement.
    pub values: Vec<f64>,
}

impl Sample {
    /// The sample of these values; nothing when there are none.
    pub fn of(values: Vec<f64>) -> Option<Self> {
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (*sorted.first()?, *sorted.last()?);
        Some(Self { median: middle(&sorted), low, high, values })
    }

    /// How many times larger this is than another. Values that were measured in the same turn are compared with each other and
    /// the median of those ratios is taken, so that a machine that is slow for a while does not fall on one side only.
    pub fn ratio_to(&self, base: &Self) -> Option<f64> {
        let ratio = if self.values.len() == base.values.len() {
            let mut ratios: Vec<f64> = self.values.iter().zip(&base.values).map(|(value, base)| value / base).collect();
            ratios.sort_by(f64::total_cmp);
            middle(&ratios)
        } else {
            self.median / base.median
        };
        ratio.is_finite().then_some(ratio)
    }

    /// Half the distance between the extremes, in percent of the median.
    pub fn spread_percent(&self) -> f64 {
        if self.median > 0.0 { (self.high - self.low) / self.median * 50.0 } else { 0.0 }
    }
}

/// Measures all of `these` `runs` times, in turns and each turn starting with another one, so that a drift of the machine falls on all of
/// them. One measurement gives `N` figures. What fails once is not measured again.
pub fn in_turns<T, const N: usize>(these: &[T], runs: u32, mut measure: impl FnMut(&T) -> Result<[f64; N]>) -> Vec<Result<[Sample; N]>> {
    let mut values: Vec<Result<Vec<[f64; N]>>> = these.iter().map(|_| Ok(Vec::new())).collect();
    for run in 0..runs as usize {
        for turn in 0..these.len() {
            let at = (run + turn) % these.len();
            if let Ok(list) = &mut values[at] {
                match measure(&these[at]) {
                    Ok(figures) => list.push(figures),
                    Err(failure) => values[at] = Err(failure),
                }
            }
        }
    }
    let sample_of = |list: &[[f64; N]], at: usize| {
        let column: Vec<f64> = list.iter().map(|figures| figures[at]).collect();
        Sample::of(column).unwrap_or(Sample { median: f64::NAN, low: f64::NAN, high: f64::NAN, values: Vec::new() })
    };
    values.into_iter().map(|list| list.map(|list| std::array::from_fn(|at| sample_of(&list, at)))).collect()
}

fn middle(sorted: &[f64]) -> f64 {
    let count = sorted.len();
    if count == 0 { f64::NAN } else { (sorted[(count - 1) / 2] + sorted[count / 2]) / 2.0 }
}

/// The geometric mean; nothing when there are no values.
pub fn geometric_mean(values: &[f64]) -> Option<f64> {
    let logs: f64 = values.iter().map(|value| value.ln()).sum();
    (!values.is_empty()).then(|| (logs / values.len() as f64).exp())
}

/// The exponent `e` for which `y = c * x^e` fits best (least squares over logarithms); nothing for fewer than two points.
pub fn growth_exponent(points: &[(f64, f64)]) -> Option<f64> {
    if points.len() < 2 {
        return None;
    }
    let count = points.len() as f64;
    let mean_x = points.iter().map(|(x, _)| x.ln()).sum::<f64>() / count;
    let mean_y = points.iter().map(|(_, y)| y.ln()).sum::<f64>() / count;
    let covariance: f64 = points.iter().map(|(x, y)| (x.ln() - mean_x) * (y.ln() - mean_y)).sum();
    let variance: f64 = points.iter().map(|(x, _)| (x.ln() - mean_x).powi(2)).sum();
    (variance > 0.0).then(|| covariance / variance)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;

    #[test]
    fn the_median_of_even_and_odd_counts() {
        assert_eq!(Sample::of(vec![3.0, 1.0, 2.0]).unwrap().median, 2.0);
        assert_eq!(Sample::of(vec![4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Sample::of(vec![9.0, 10.0, 11.0]).unwrap().spread_percent(), 10.0);
        assert_eq!(Sample::of(vec![]), None);
    }

    #[test]
    fn ratios_compare_what_was_measured_in_the_same_turn() {
        let slow_once = |factor: f64| Sample::of(vec![factor, factor * 9.0, factor]).unwrap();
        assert_eq!(slow_once(1.0).ratio_to(&slow_once(2.0)), Some(0.5));
        let fewer = Sample::of(vec![4.0]).unwrap();
        assert_eq!(fewer.ratio_to(&slow_once(2.0)), Some(2.0));
        assert_eq!(fewer.ratio_to(&Sample::of(vec![0.0]).unwrap()), None);
    }

    #[test]
    fn means_and_exponents() {
        assert!((geometric_mean(&[0.5, 2.0]).unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(geometric_mean(&[]), None);
        let points: Vec<(f64, f64)> = (1..6).map(|x| (f64::from(x), 3.0 * f64::from(x * x))).collect();
        assert!((growth_exponent(&points).unwrap() - 2.0).abs() < 1e-9);
    }

    #[test]
    fn engines_take_turns_and_one_failure_is_enough() {
        let mut order = Vec::new();
        let results = in_turns(&["right", "wrong"], 3, |engine| {
            order.push(*engine);
            if *engine == "wrong" { Err(Failure::new("no")) } else { Ok([1.0]) }
        });
        assert_eq!(order, ["right", "wrong", "right", "right"]);
        assert_eq!(results[0].as_ref().unwrap()[0].values.len(), 3);
        assert!(results[1].is_err());
    }
}
