//! The page of metrics, as a scraper reads it.

use std::collections::{BTreeMap, BTreeSet};

/// A page of Prometheus metrics.
#[derive(Debug, Clone)]
pub struct Metrics(pub String);

impl Metrics {
    /// The sum of all samples with this name whose labels hold all of `labels` (as `name="value"`). `None` when
    /// there is no such sample.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let samples = self.0.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (found, rest) = series.split_once('{').unwrap_or((series, ""));
            (found == name && labels.iter().all(|label| rest.contains(label)))
                .then(|| value.parse::<f64>().ok())?
        });
        samples.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }

    /// The values that a label has in the samples with this name, each with the sum of its samples.
    #[must_use]
    pub fn by_label(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let start = format!("{name}{{");
        let opening = format!("{label}=\"");
        let series = self.0.lines().filter(|line| line.starts_with(&start));
        let values = series.filter_map(|line| line.split_once(&opening)?.1.split('"').next());
        let values: BTreeSet<&str> = values.collect();
        let sum = |value: &str| self.sum(name, &[&format!("{opening}{value}\"")]).unwrap_or(0.0);
        values.into_iter().map(|value| (value.to_owned(), sum(value))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_name_and_label() {
        let page = Metrics("# HELP x y\nx{a=\"1\",b=\"2\"} 2\nx{a=\"2\"} 3\nxy 7\nz 1\n".to_owned());
        assert_eq!(page.sum("x", &[]), Some(5.0));
        assert_eq!(page.sum("x", &["a=\"1\""]), Some(2.0));
        assert_eq!(page.sum("none", &[]), None);
        let by_a = page.by_label("x", "a");
        assert_eq!(by_a, BTreeMap::from([(String::from("1"), 2.0), (String::from("2"), 3.0)]));
    }
}
