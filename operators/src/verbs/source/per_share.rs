//! Shares: an input that the program itself generates, split among the workers that the run began with.

use std::io;

use super::{Reader, Source};
use crate::data::Data;
use crate::ids::Share;

/// How many items are read at once, at most.
const BATCH: usize = 1024;

/// A source whose shards come from a closure; see [`per_share`].
pub struct PerShare<F> {
    items: F,
}

/// A source of the items that `items` yields for each share.
///
/// It replaces "what this program does on worker i". A share belongs to a partition and moves with it. After
/// a failure the iterator is created again and advanced to its position, so it must yield the same items each
/// time.
///
/// ```
/// use ringfence_operators::prelude::*;
///
/// let squares = per_share(|share| (share.index..100).step_by(share.count as usize).map(|n| n * n));
/// # let _ = squares;
/// ```
pub fn per_share<I, F>(items: F) -> PerShare<F>
where
    I: Iterator<Item: Data>,
    F: Fn(Share) -> I,
{
    PerShare { items }
}

impl<F, I> Source for PerShare<F>
where
    F: Fn(Share) -> I + 'static,
    I: Iterator<Item: Data> + 'static,
{
    type Item = I::Item;
    type Position = u64;
    type Reader = ShareReader<I>;

    fn shards(&self, share_count: u32) -> io::Result<Vec<String>> {
        Ok((0..share_count).map(|index| format!("{index}/{share_count}")).collect())
    }

    fn open(&self, shard: &str, at: Option<&u64>) -> io::Result<ShareReader<I>> {
        let parts = shard.split_once('/').map(|(i, n)| (i.parse(), n.parse()));
        let Some((Ok(index), Ok(count))) = parts else {
            let what = format!("\"{shard}\" is not a share such as 0/3");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        };
        let mut items = (self.items)(Share { index, count });
        let position = at.copied().unwrap_or(0);
        if let Some(last) = position.checked_sub(1) {
            let skip = usize::try_from(last).map_err(io::Error::other)?;
            items.nth(skip);
        }
        Ok(ShareReader { items, position })
    }
}

/// Reads one share.
pub struct ShareReader<I> {
    items: I,
    position: u64,
}

impl<I: Iterator + 'static> Reader for ShareReader<I> {
    type Item = I::Item;
    type Position = u64;

    fn read(&mut self, batch: &mut Vec<I::Item>) -> io::Result<bool> {
        self.read_some(batch, BATCH)
    }

    fn read_some(&mut self, batch: &mut Vec<I::Item>, items_max: usize) -> io::Result<bool> {
        let (before, items_max) = (batch.len(), items_max.clamp(1, BATCH));
        batch.extend(self.items.by_ref().take(items_max));
        let read = batch.len() - before;
        self.position += read as u64;
        Ok(read == items_max)
    }

    fn position(&self) -> u64 {
        self.position
    }
}
