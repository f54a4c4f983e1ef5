//! Lines of text, dealt out in rounds.

use super::job::Job;
use super::random::random;

/// Lines of one round of a generated text.
const LINES_PER_ROUND: usize = 100;

/// Words that a generated text uses.
const WORDS: u64 = 2000;

/// Lines of text, of which each round has its own.
#[derive(Clone, Debug)]
pub struct Text {
    lines: Vec<String>,
    rounds: u64,
}

impl Text {
    /// The text of the file that was given, or a generated one.
    pub fn of(job: &Job) -> Self {
        let rounds = job.rounds();
        let lines = match job.read_file() {
            Some(text) => text.lines().map(str::to_owned).collect(),
            None => {
                let lines = 0..LINES_PER_ROUND as u64 * rounds;
                lines.map(|number| line(job.seed(), number)).collect()
            }
        };
        Text { lines, rounds }
    }

    /// The number of rounds.
    pub fn rounds(&self) -> u64 {
        self.rounds
    }

    /// The lines of one round, as much as those of any other.
    pub fn round(&self, round: u64) -> impl Iterator<Item = String> + '_ {
        let place = |round: u64| (self.lines.len() as u64 * round / self.rounds) as usize;
        self.lines[place(round)..place(round + 1)].iter().cloned()
    }
}

/// A line of one to eight words, of which some are frequent and most are rare.
fn line(seed: u64, number: u64) -> String {
    let length = 1 + random(seed, number) % 8;
    let words = (0..length).map(|place| {
        let number = random(seed ^ 0x5eed, number * 8 + place);
        // The product of two numbers is more often small than large.
        let mut rest = (number % WORDS) * ((number >> 32) % WORDS) / WORDS;
        let mut word = String::new();
        loop {
            word.push((b'a' + (rest % 26) as u8) as char);
            rest /= 26;
            if rest == 0 {
                return word;
            }
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_in_one_round() {
        let lines: Vec<String> = (0..17).map(|n| n.to_string()).collect();
        let text = Text { lines: lines.clone(), rounds: 5 };
        let dealt: Vec<String> = (0..5).flat_map(|round| text.round(round)).collect();
        assert_eq!(dealt, lines);
        assert!(line(1, 2).split(' ').all(|word| !word.is_empty()));
    }
}
