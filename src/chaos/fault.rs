//! One injected failure, as it is written on the command line: `kill:1@40%`, `stop:0@2s+10s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use ringfence_operators::ids::NodeId;
use serde::{Deserialize, Serialize};

/// The way in which a node fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The process gets SIGKILL.
    Kill,
    /// A protected operator of one of its workers panics.
    Panic,
    /// The process gets SIGSTOP, and SIGCONT later.
    Stop,
    /// No byte passes between the node and all others for a while; no connection is closed.
    Cut,
    /// Every byte to and from the node arrives later for a while.
    Slow,
}

impl FaultKind {
    /// Whether the fault lasts for a while and then ends by itself.
    pub fn is_timed(self) -> bool {
        matches!(self, FaultKind::Stop | FaultKind::Cut | FaultKind::Slow)
    }

    /// Whether the fault affects the connections between nodes.
    pub fn is_of_network(self) -> bool {
        matches!(self, FaultKind::Cut | FaultKind::Slow)
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FaultKind::Kill => "kill",
            FaultKind::Panic => "panic",
            FaultKind::Stop => "stop",
            FaultKind::Cut => "cut",
            FaultKind::Slow => "slow",
        })
    }
}

/// The moment at which a fault is due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// This long after the first commit.
    AfterFirstCommit(Duration),
    /// Once this percentage of the input has been read, from 0 to 100.
    Percent(f64),
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            When::Percent(percent) => write!(f, "{percent}%"),
            When::AfterFirstCommit(after) => f.write_str(&written(*after)),
        }
    }
}

/// One injected failure: which node, how, when, and for how long.
///
/// ```
/// use ringfence::chaos::{Fault, FaultKind, When};
/// use std::time::Duration;
///
/// let fault: Fault = "stop:1@40%+10s".parse()?;
/// assert_eq!((fault.kind, fault.node.0, fault.when), (FaultKind::Stop, 1, When::Percent(40.0)));
/// assert_eq!(fault.lasting, Some(Duration::from_secs(10)));
/// assert_eq!(fault.to_string(), "stop:1@40%+10s");
/// # Ok::<(), ringfence::chaos::FaultParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fault {
    /// How the node fails.
    pub kind: FaultKind,
    /// The node that fails.
    pub node: NodeId,
    /// When it fails.
    pub when: When,
    /// The time after which the fault ends; `None` if it does not end.
    pub lasting: Option<Duration>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}@{}", self.kind, self.node, self.when)?;
        match self.lasting {
            Some(lasting) => write!(f, "+{}", written(lasting)),
            None => Ok(()),
        }
    }
}

/// A fault that cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "fault {spec:?}: {problem}; expected kill:NODE@WHEN, panic:NODE@WHEN, stop:NODE@WHEN+FOR, cut:NODE@WHEN+FOR, slow:NODE@WHEN+FOR or random:SEED@EVERY, where WHEN is like 2s, 500ms or 40%, FOR and EVERY like 10s or 800ms"
)]
pub struct FaultParseError {
    pub(super) spec: String,
    pub(super) problem: String,
}

impl FromStr for Fault {
    type Err = FaultParseError;

    fn from_str(spec: &str) -> Result<Self, FaultParseError> {
        let wrong = |problem: String| FaultParseError { spec: spec.to_owned(), problem };
        let (kind, rest) =
            spec.split_once(':').ok_or_else(|| wrong("there is no colon".to_owned()))?;
        let kind = match kind {
            "kill" => FaultKind::Kill,
            "panic" => FaultKind::Panic,
            "stop" => FaultKind::Stop,
            "cut" => FaultKind::Cut,
            "slow" => FaultKind::Slow,
            other => return Err(wrong(format!("{other:?} is no way to fail"))),
        };
        let (node, moment) =
            rest.split_once('@').ok_or_else(|| wrong("there is no @WHEN".to_owned()))?;
        let node = node.parse().map_err(|_| wrong(format!("{node:?} is not a node number")))?;
        let (when, lasting) = match moment.split_once('+') {
            Some((when, lasting)) => (when, Some(lasting)),
            None => (moment, None),
        };
        let lasting = match (kind.is_timed(), lasting) {
            (true, None) => {
                return Err(wrong(format!("there is no +FOR: when does a {kind} end?")));
            }
            (false, Some(_)) => return Err(wrong(format!("a {kind} has no end, so no +FOR"))),
            (true, Some(text)) => {
                let lasting = parse_duration(text).filter(|lasting| !lasting.is_zero());
                Some(lasting.ok_or_else(|| wrong(format!("{text:?} is no length of time")))?)
            }
            (false, None) => None,
        };
        let when = parse_when(when).ok_or_else(|| wrong(format!("{when:?} is no moment")))?;
        Ok(Fault { kind, node: NodeId(node), when, lasting })
    }
}

fn parse_when(text: &str) -> Option<When> {
    match text.strip_suffix('%') {
        Some(percent) => number(percent).filter(|p| *p <= 100.0).map(When::Percent),
        None => parse_duration(text).map(When::AfterFirstCommit),
    }
}

/// Reads `2s`, `1.5s` or `500ms`.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    // "ms" before "s", because "ms" ends with "s".
    let seconds = match text.strip_suffix("ms") {
        Some(millis) => number(millis)? / 1e3,
        None => number(text.strip_suffix('s')?)?,
    };
    Duration::try_from_secs_f64(seconds).ok()
}

/// Writes what [`parse_duration`] reads.
pub(super) fn written(duration: Duration) -> String {
    if duration.subsec_nanos() == 0 {
        format!("{}s", duration.as_secs())
    } else {
        format!("{}ms", duration.as_secs_f64() * 1e3)
    }
}

/// A plain decimal number: no sign, no exponent, no "inf".
fn number(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_written_back() {
        for spec in [
            "kill:0@2s",
            "kill:12@500ms",
            "panic:1@40%",
            "panic:3@12.5%",
            "kill:1@1.5ms",
            "stop:1@40%+10s",
            "cut:0@2s+800ms",
            "slow:2@500ms+1.5ms",
        ] {
            assert_eq!(spec.parse::<Fault>().unwrap().to_string(), spec);
        }
        let fault: Fault = "kill:2@1.5s".parse().unwrap();
        assert_eq!(fault.when, When::AfterFirstCommit(Duration::from_millis(1500)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (spec, problem) in [
            ("kill", "no colon"),
            ("burn:1@2s", "\"burn\" is no way to fail"),
            ("kill:1", "no @WHEN"),
            ("kill:one@2s", "\"one\" is not a node number"),
            ("kill:-1@2s", "\"-1\" is not a node number"),
            ("kill:1@", "\"\" is no moment"),
            ("kill:1@2", "\"2\" is no moment"),
            ("kill:1@101%", "\"101%\" is no moment"),
            ("kill:1@-2s", "\"-2s\" is no moment"),
            ("kill:1@infs", "\"infs\" is no moment"),
            ("kill:1@%", "\"%\" is no moment"),
            ("kill:1@9999999999999999999999s", "is no moment"),
            ("kill:1@2s+1s", "a kill has no end"),
            ("panic:1@2s+1s", "a panic has no end"),
            ("stop:1@2s", "there is no +FOR: when does a stop end?"),
            ("cut:1@2s+", "\"\" is no length of time"),
            ("slow:1@2s+0ms", "\"0ms\" is no length of time"),
            ("stop:1@+2s", "\"\" is no moment"),
            ("stop:1@2s+40%", "\"40%\" is no length of time"),
            ("stop:1@2s+1s+1s", "\"1s+1s\" is no length of time"),
        ] {
            let error = spec.parse::<Fault>().unwrap_err().to_string();
            assert!(error.contains(problem), "{spec}: {error}");
        }
    }
}
