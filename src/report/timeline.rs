//! A recovery as a small text chart: one bar for each phase, each beginning where the previous one ended.

use std::fmt;

use super::Recovery;

const BAR_CELLS: f64 = 40.0;

/// The chart of one recovery, as its slowest node saw it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeline<'a>(pub &'a Recovery);

impl fmt::Display for Timeline<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Timeline(recovery) = self;
        let phases = &recovery.slowest;
        let total = phases.total_ms();
        write!(f, "recovery to view {} took {total:.1} ms", recovery.view)?;
        let mut start = 0.0;
        for (name, ms) in phases.named() {
            // An empty recovery has no scale; then every bar is at the left edge.
            let scale = if total > 0.0 { BAR_CELLS / total } else { 0.0 };
            let from = (start * scale).round().min(BAR_CELLS - 1.0) as usize;
            let to = ((start + ms) * scale).round() as usize;
            // A phase that is too short for a cell gets a thin one, because it did happen.
            let bar = if to > from { "█".repeat(to - from) } else { "▏".to_owned() };
            write!(f, "\n  {name:<18} {ms:>8.1} ms  {:from$}{bar}", "")?;
            start += ms;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Phases;
    use ringfence_operators::ids::ViewNumber;

    #[test]
    fn each_bar_begins_where_the_one_before_ended() {
        let slowest = Phases { detect: Some(1.0), stop: 1.0, replay: 2.0, ..Phases::default() };
        let recovery = Recovery { slowest, ..Recovery::of(ViewNumber(2)) };
        let text = Timeline(&recovery).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "recovery to view 2 took 4.0 ms");
        assert_eq!(lines[1], format!("  detect                  1.0 ms  {}", "█".repeat(10)));
        assert!(lines[2].ends_with(&format!("{}{}", " ".repeat(10), "█".repeat(10))), "{text}");
        assert!(lines[7].ends_with(&format!("{}{}", " ".repeat(20), "█".repeat(20))), "{text}");
        assert_eq!(lines.len(), 9);
    }

    #[test]
    fn a_recovery_without_times_is_drawn_too() {
        assert_eq!(Timeline(&Recovery::of(ViewNumber(2))).to_string().lines().count(), 8);
    }
}
