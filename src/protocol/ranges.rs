//! Partitions as people read them: `0-3, 7`.

use std::fmt;

use ringfence_operators::ids::PartitionId;

/// Displays ascending partitions with runs joined: `0-3, 7, 9-11`.
#[derive(Clone, Copy, Debug)]
pub struct Ranges<'a>(pub &'a [PartitionId]);

impl fmt::Display for Ranges<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        let mut separator = "";
        while let Some(first) = rest.first() {
            let run = rest
                .iter()
                .zip(u64::from(first.0)..)
                .take_while(|(partition, expected)| u64::from(partition.0) == *expected)
                .count()
                .max(1);
            let last = rest[run - 1];
            match run {
                1 => write!(f, "{separator}{first}")?,
                _ => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ", ";
            rest = &rest[run..];
        }
        Ok(())
    }
}

/// Displays the items of a list with commas between them.
pub(crate) fn list<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_joined() {
        let partitions = [0, 1, 2, 3, 7, 9, 10, u32::MAX].map(PartitionId);
        assert_eq!(Ranges(&partitions).to_string(), "0-3, 7, 9-10, 4294967295");
        assert_eq!(Ranges(&[]).to_string(), "");
    }
}
