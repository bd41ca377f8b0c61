//! The rows that every bench ends in: printed as one table, written as JSON.
//!
//! The table is made of the rows and of nothing else, so that a figure that was seen is also in the file. Callers: the
//! benches make rows, `viplb-bench` prints and writes them.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};
use serde::Serialize;

/// How viplb is called in [`Row::spread`].
pub const OURS: &str = "viplb";

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The bench, as `cargo xtask bench` calls it.
    pub bench: String,
    /// What was measured, in words.
    pub figure: String,
    /// The median over the runs, or a sum where the figure counts something.
    pub value: f64,
    /// Unit of `value`, of `target` and of the peers.
    pub unit: String,
    /// `value` may be this at most; none: shown for information.
    pub target: Option<f64>,
    /// Whether the target is met; true without one.
    pub ok: bool,
    /// The same figure of other programs, measured in the same run.
    pub peers: BTreeMap<String, f64>,
    /// How often it was measured.
    pub runs: usize,
    /// Lowest and highest of the runs, by program ([`OURS`] or a peer's name); none for a sum.
    pub spread: BTreeMap<String, [f64; 2]>,
}

impl Row {
    /// The median of some runs. Without any run the target is missed: what was not measured is not met.
    pub fn median(bench: &str, figure: impl Into<String>, unit: &str, values: &[f64]) -> Self {
        let mut row = Self::sum(bench, figure, unit, median(values).unwrap_or(f64::NAN), values.len());
        row.spread.extend(spread(values).map(|spread| (OURS.to_owned(), spread)));
        row
    }

    /// A figure that is one number for all runs.
    pub fn sum(bench: &str, figure: impl Into<String>, unit: &str, value: f64, runs: usize) -> Self {
        Row {
            bench: bench.to_owned(),
            figure: figure.into(),
            value,
            unit: unit.to_owned(),
            target: None,
            ok: true,
            peers: BTreeMap::new(),
            runs,
            spread: BTreeMap::new(),
        }
    }

    /// With a target: the value may be this at most.
    pub fn at_most(mut self, target: f64) -> Self {
        self.target = Some(target);
        self.ok = self.value <= target;
        self
    }

    /// With the median of a peer's runs; nothing if there were none.
    pub fn beside(mut self, peer: &str, values: &[f64]) -> Self {
        self.peers.extend(median(values).map(|value| (peer.to_owned(), value)));
        self.spread.extend(spread(values).map(|spread| (peer.to_owned(), spread)));
        self
    }

    /// With a peer's one number.
    pub fn beside_sum(mut self, peer: &str, value: f64) -> Self {
        self.peers.insert(peer.to_owned(), value);
        self
    }
}

/// The middle value; of an even number the mean of the two.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

fn spread(values: &[f64]) -> Option<[f64; 2]> {
    let lowest = values.iter().copied().min_by(f64::total_cmp)?;
    let highest = values.iter().copied().max_by(f64::total_cmp)?;
    Some([lowest, highest])
}

/// All targets are met.
pub fn all_met(rows: &[Row]) -> bool {
    rows.iter().all(|row| row.ok)
}

/// Writes the rows as a JSON array.
pub fn write_json(rows: &[Row], file: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(rows)? + "\n";
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// The rows as a table for people: `median (lowest–highest)`.
pub fn table(rows: &[Row]) -> String {
    let mut peers: Vec<&String> = rows.iter().flat_map(|row| row.peers.keys()).collect();
    peers.sort();
    peers.dedup();
    let mut lines = vec![["BENCH", "FIGURE", "RUNS", "VIPLB", "TARGET", ""].map(str::to_owned).to_vec()];
    lines[0].extend(peers.iter().map(|peer| peer.to_uppercase()));
    for row in rows {
        let target = row.target.map_or_else(|| "-".to_owned(), |most| format!("≤ {}", short(most)));
        let verdict = match (row.target, row.ok) {
            (None, _) => "",
            (Some(_), true) => "ok",
            (Some(_), false) => "MISSED",
        };
        let mut cells = vec![row.bench.clone(), format!("{}, {}", row.figure, row.unit)];
        cells.extend([row.runs.to_string(), cell(row.value, row.spread.get(OURS)), target, verdict.into()]);
        cells.extend(peers.iter().map(|peer| match row.peers.get(*peer) {
            Some(value) => cell(*value, row.spread.get(*peer)),
            None => "-".to_owned(),
        }));
        lines.push(cells);
    }
    aligned(&lines)
}

fn cell(value: f64, spread: Option<&[f64; 2]>) -> String {
    if value.is_nan() {
        return "not measured".to_owned();
    }
    match spread {
        Some([lowest, highest]) => format!("{} ({}–{})", short(value), short(*lowest), short(*highest)),
        None => short(value),
    }
}

/// Whole numbers without a point, others with as many digits as they deserve.
fn short(value: f64) -> String {
    if value.fract() == 0.0 || value.abs() >= 100.0 {
        format!("{value:.0}")
    } else if value.abs() >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let mut out = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            let _ = write!(out, "{cell:width$}  ");
        }
        text.push_str(out.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_of_runs_is_between_the_two_in_the_middle() {
        for (values, expected) in [
            (&[][..], None),
            (&[7.0], Some(7.0)),
            (&[9.0, 1.0, 5.0], Some(5.0)),
            (&[4.0, 1.0, 9.0, 2.0], Some(3.0)),
        ] {
            assert_eq!(median(values), expected, "{values:?}");
        }
    }

    #[test]
    fn a_target_is_met_up_to_its_value_and_missed_by_what_was_not_measured() {
        let row = |values: &[f64]| Row::median("failover", "stop", "ms", values).at_most(20.0);
        assert!(row(&[20.0]).ok && row(&[0.0, 20.0, 3000.0]).ok);
        assert!(!row(&[20.1]).ok);
        assert!(!row(&[]).ok, "no run");
        assert!(all_met(&[row(&[1.0]), Row::median("failover", "stop, udp", "ms", &[9e9])]), "no target");
        assert!(!all_met(&[row(&[1.0]), row(&[21.0])]));
    }

    fn rows() -> Vec<Row> {
        vec![
            Row::median("failover", "stop", "ms", &[10.0, 0.0, 12.25])
                .at_most(20.0)
                .beside("other", &[610.0, 612.0, 605.0]),
            Row::sum("failover", "two answers", "samples", 3.0, 10).at_most(0.0).beside_sum("other", 5120.0),
            Row::median("failover", "stop, udp", "ms", &[]),
        ]
    }

    #[test]
    fn the_table_has_a_line_a_row_with_spread_target_verdict_and_peers() {
        let expected = "\
BENCH     FIGURE                RUNS  VIPLB         TARGET          OTHER
failover  stop, ms              3     10 (0–12.2)   ≤ 20    ok      610 (605–612)
failover  two answers, samples  10    3             ≤ 0     MISSED  5120
failover  stop, udp, ms         0     not measured  -               -
";
        assert_eq!(table(&rows()), expected);
    }

    #[test]
    fn the_file_holds_every_field_of_every_row() {
        let file = std::env::temp_dir().join(format!("viplb-rows-{}", std::process::id()));
        write_json(&rows(), &file).unwrap();
        let read: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        fs::remove_file(&file).unwrap();
        assert_eq!(
            read[0],
            serde_json::json!({
                "bench": "failover", "figure": "stop", "value": 10.0, "unit": "ms", "target": 20.0, "ok": true,
                "peers": {"other": 610.0}, "runs": 3,
                "spread": {"viplb": [0.0, 12.25], "other": [605.0, 612.0]},
            })
        );
        assert_eq!(read[1]["ok"], false);
        assert!(read[2]["value"].is_null() && read[2]["target"].is_null());
    }
}
