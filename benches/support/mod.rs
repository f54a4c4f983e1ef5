//! What the benches share: figures with their spread, tables, and JSON below `target/ringfence`.

#![allow(dead_code, unreachable_pub, reason = "each bench uses its own part of this")]

pub mod rate;
pub mod steady;

use std::path::PathBuf;

use serde_json::Value;

/// The middle, the 90th percentile, and the extremes of some figures.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub median: f64,
    pub p90: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    pub fn of(figures: &[f64]) -> Option<Spread> {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |part: f64| sorted[((sorted.len() - 1) as f64 * part).round() as usize];
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        Some(Spread { median: at(0.5), p90: at(0.9), min, max })
    }

    pub fn to_json(self) -> Value {
        serde_json::json!({
            "median": self.median, "p90": self.p90, "min": self.min, "max": self.max,
        })
    }
}

/// A number in a deterministic sequence: splitmix64, see Steele, Lea and Flood, OOPSLA 2014.
pub fn mix(n: u64) -> u64 {
    let z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Writes the figures of a bench; returns where.
pub fn write_json(bench: &str, figures: &Value) -> std::io::Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    let directory = target.join("ringfence");
    std::fs::create_dir_all(&directory)?;
    let path = directory.join(format!("{bench}.json"));
    std::fs::write(&path, serde_json::to_vec_pretty(figures)?)?;
    Ok(path)
}

/// Whether `flag` is among the arguments.
pub fn has(flag: &str) -> bool {
    std::env::args().any(|arg| arg == flag)
}
