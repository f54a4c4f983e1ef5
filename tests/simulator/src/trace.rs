//! Trace: what happened in a simulation, for reading, and a hash of it for comparing.

use std::fmt::Write;

use ringfence_operators::ids::NodeId;

use super::chance::mix;

/// The story of one run. Its lines are kept only where somebody wants to read them.
#[derive(Clone, Debug, Default)]
pub(super) struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    pub(super) fn new(wanted: bool) -> Self {
        Trace { hash: 0, lines: wanted.then(Vec::new) }
    }

    /// Notes one event: `what` and `word` go into the hash, the words only into the lines.
    pub(super) fn note(
        &mut self,
        now_us: u64,
        node: Option<NodeId>,
        what: &'static str,
        word: u64,
        words: impl FnOnce() -> String,
    ) {
        let node_word = node.map_or(u64::MAX, |node| node.0);
        for part in [now_us, node_word, word].into_iter().chain(what.bytes().map(u64::from)) {
            self.hash = mix(self.hash ^ part).wrapping_add(part);
        }
        if let Some(lines) = &mut self.lines {
            let mut line = format!("{:>10.3} ms  ", now_us as f64 / 1e3);
            let _ = match node {
                Some(node) => write!(line, "node {node}  "),
                None => write!(line, "        "),
            };
            let _ = write!(line, "{what:<10} {}", words());
            lines.push(line);
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}

/// A hash of some bytes.
pub(super) fn digest(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(bytes.len() as u64, |hash, chunk| {
        let word = chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        mix(hash ^ word)
    })
}
