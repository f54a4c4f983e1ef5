//! One failure on purpose, as it is written on the command line: `kill:1@40%`, `panic:0@2s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use ringfence_operators::ids::NodeId;
use serde::{Deserialize, Serialize};

/// How a node is made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The process gets SIGKILL.
    Kill,
    /// A protected operator of one of its workers panics.
    Panic,
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FaultKind::Kill => "kill",
            FaultKind::Panic => "panic",
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
            When::AfterFirstCommit(after) if after.subsec_nanos() == 0 => {
                write!(f, "{}s", after.as_secs())
            }
            When::AfterFirstCommit(after) => write!(f, "{}ms", after.as_secs_f64() * 1e3),
        }
    }
}

/// One failure on purpose: which node, how, and when.
///
/// ```
/// use ringfence::chaos::{Fault, FaultKind, When};
///
/// let fault: Fault = "kill:1@40%".parse()?;
/// assert_eq!((fault.kind, fault.node.0, fault.when), (FaultKind::Kill, 1, When::Percent(40.0)));
/// assert_eq!(fault.to_string(), "kill:1@40%");
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
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}@{}", self.kind, self.node, self.when)
    }
}

/// A fault that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "fault {spec:?}: {problem}; expected kill:NODE@WHEN or panic:NODE@WHEN, where WHEN is like 2s, 500ms or 40%"
)]
pub struct FaultParseError {
    spec: String,
    problem: String,
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
            other => return Err(wrong(format!("{other:?} is no way to fail"))),
        };
        let (node, when) =
            rest.split_once('@').ok_or_else(|| wrong("there is no @WHEN".to_owned()))?;
        let node = node.parse().map_err(|_| wrong(format!("{node:?} is no node number")))?;
        let when = parse_when(when).ok_or_else(|| wrong(format!("{when:?} is no moment")))?;
        Ok(Fault { kind, node: NodeId(node), when })
    }
}

fn parse_when(text: &str) -> Option<When> {
    // "ms" before "s": the one ends with the other.
    if let Some(percent) = text.strip_suffix('%') {
        return number(percent).filter(|p| *p <= 100.0).map(When::Percent);
    }
    let seconds = match text.strip_suffix("ms") {
        Some(millis) => number(millis)? / 1e3,
        None => number(text.strip_suffix('s')?)?,
    };
    Duration::try_from_secs_f64(seconds).ok().map(When::AfterFirstCommit)
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
        for spec in ["kill:0@2s", "kill:12@500ms", "panic:1@40%", "panic:3@12.5%", "kill:1@1.5ms"] {
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
            ("kill:one@2s", "\"one\" is no node number"),
            ("kill:-1@2s", "\"-1\" is no node number"),
            ("kill:1@", "\"\" is no moment"),
            ("kill:1@2", "\"2\" is no moment"),
            ("kill:1@101%", "\"101%\" is no moment"),
            ("kill:1@-2s", "\"-2s\" is no moment"),
            ("kill:1@infs", "\"infs\" is no moment"),
            ("kill:1@%", "\"%\" is no moment"),
            ("kill:1@9999999999999999999999s", "is no moment"),
        ] {
            let error = spec.parse::<Fault>().unwrap_err().to_string();
            assert!(error.contains(problem), "{spec}: {error}");
        }
    }
}
