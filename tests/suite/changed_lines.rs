//! How many lines of a job change when it is protected: the table of `docs/wrapping.md`.
//!
//! Counted is what differs between `NAME_bare.rs` and `NAME.rs`, without `use` lines, attributes of the
//! file, comments and blank lines: of each place that differs the longer side. The feeding is what stands
//! around the dataflow, and what reads a source; a start and an end each job has; the rest are its
//! operators.
//!
//! ```text
//! cargo test --test suite changed_lines -- --nocapture
//! ```

use std::fs;
use std::path::Path;

const JOBS: [&str; 16] = [
    "word_count_by_hand",
    "distinct",
    "hash_join",
    "union_find",
    "bfs",
    "pagerank",
    "event_driven",
    "weather",
    "nexmark",
    "dd_components",
    "dd_bfs",
    "dd_triangles",
    "dd_degrees",
    "dd_reach",
    "dd_orders",
    "dd_shared",
];

const MEDIAN_MAX: usize = 12;
const MAX: usize = 30;

/// What a line of a job is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// It starts the job, or it is its output.
    Ends,
    Feeding,
    Operators,
}

#[derive(Debug, Default)]
struct Changed {
    ends: usize,
    feeding: usize,
    operators: usize,
}

impl Changed {
    fn all(&self) -> usize {
        self.ends + self.feeding + self.operators
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The lines of an example that count, each with its part.
fn lines(name: &str) -> Vec<(String, Part)> {
    let path = root().join("examples").join(format!("{name}.rs"));
    let text = fs::read_to_string(&path).expect("an example can be read");
    let (mut lines, mut in_use, mut in_main, mut in_dataflow) = (Vec::new(), false, false, false);
    for line in text.lines() {
        let code = line.trim();
        if in_use || code.starts_with("use ") {
            in_use = !code.ends_with(';');
            continue;
        }
        if code.is_empty() || code.starts_with("//") || code.starts_with("#![") {
            continue;
        }
        in_main |= code.starts_with("fn main()");
        let part = match code {
            _ if code.contains("::execute") || code.contains("write_lines(") => Part::Ends,
            _ if code.contains("sink_fenced(") => Part::Ends,
            _ if code.contains("to_stream(scope)") => Part::Feeding,
            _ if code.contains("to_collection(scope);") => Part::Feeding,
            _ if code.contains("to_stream_fenced(scope") => Part::Feeding,
            _ if code.contains("unordered_input()") => Part::Feeding,
            _ if in_main && !in_dataflow => Part::Feeding,
            _ => Part::Operators,
        };
        if code.contains("worker.dataflow") {
            in_dataflow = true;
        }
        // The dataflow ends where its indentation does.
        if in_dataflow && line == "        });" {
            in_dataflow = false;
        }
        in_main &= line != "}";
        lines.push((code.to_owned(), part));
    }
    lines
}

/// Counts what differs, by a longest common subsequence.
fn changed(bare: &[(String, Part)], fenced: &[(String, Part)]) -> Changed {
    // common[i][j]: how many lines from i and j on are in common.
    let mut common = vec![vec![0usize; fenced.len() + 1]; bare.len() + 1];
    for i in (0..bare.len()).rev() {
        for j in (0..fenced.len()).rev() {
            common[i][j] = if bare[i].0 == fenced[j].0 {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut changed = Changed::default();
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    loop {
        let is_same = i < bare.len() && j < fenced.len() && bare[i].0 == fenced[j].0;
        if is_same || (i == bare.len() && j == fenced.len()) {
            // Of a place that differs the longer side counts.
            let side = if removed.len() > added.len() { &removed } else { &added };
            for part in side {
                match part {
                    Part::Ends => changed.ends += 1,
                    Part::Feeding => changed.feeding += 1,
                    Part::Operators => changed.operators += 1,
                }
            }
            removed.clear();
            added.clear();
            if i == bare.len() {
                return changed;
            }
            (i, j) = (i + 1, j + 1);
        } else if j == fenced.len() || (i < bare.len() && common[i + 1][j] >= common[i][j + 1]) {
            removed.push(bare[i].1);
            i += 1;
        } else {
            added.push(fenced[j].1);
            j += 1;
        }
    }
}

#[test]
fn few_lines_of_a_job_change_and_the_guide_says_how_many() {
    let mut table = String::new();
    let mut all = Vec::new();
    for name in JOBS {
        let (bare, fenced) = (lines(&format!("{name}_bare")), lines(name));
        let changed = changed(&bare, &fenced);
        table += &format!(
            "| `{name}` | {} | {} | {} | {} | {} |\n",
            bare.len(),
            changed.all(),
            changed.operators,
            changed.feeding,
            changed.ends
        );
        all.push(changed.all());
    }
    all.sort_unstable();
    println!("{table}median {}", all[all.len() / 2]);
    assert!(all[all.len() / 2] <= MEDIAN_MAX, "median {}\n{table}", all[all.len() / 2]);
    assert!(all.iter().all(|changed| *changed <= MAX), "{table}");
    let guide = fs::read_to_string(root().join("docs/wrapping.md")).expect("there is a guide");
    assert!(guide.contains(&table), "the table of docs/wrapping.md should be:\n{table}");
}

#[test]
fn the_changes_that_the_guide_shows_are_those_of_the_examples() {
    let guide = fs::read_to_string(root().join("docs/wrapping.md")).expect("there is a guide");
    let code = |ending: &str| -> Vec<String> {
        let of = |name: &&str| lines(&format!("{name}{ending}")).into_iter().map(|line| line.0);
        JOBS.iter().flat_map(of).collect()
    };
    let (bare, fenced) = (code("_bare"), code(""));
    let blocks = guide.split("```diff\n").skip(1).filter_map(|rest| rest.split("```").next());
    let mut count = 0;
    for line in blocks.flat_map(str::lines) {
        let (sign, code) = line.split_at(1);
        let examples = if sign == "-" { &bare } else { &fenced };
        assert!(examples.iter().any(|line| line == code.trim()), "no example has: {line}");
        count += 1;
    }
    assert!(count > 20, "the guide shows changes");
}
