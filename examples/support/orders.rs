//! Customers, their orders and the items of these, in the manner of TPC-H, coming and going by a seed.

use super::job::Job;
use super::random::random;

/// A customer and the segment of the market that it belongs to.
pub type Customer = (u32, String);
/// An order and its customer.
pub type Order = (u64, u32);
/// An item's order, and what it brings, in cents.
pub type Item = (u64, u32);

/// A change: what changes, and 1 if it comes or -1 if it goes.
pub type Change<D> = (D, isize);

const SEGMENTS: [&str; 5] = ["automobile", "building", "furniture", "household", "machinery"];

/// Orders that come in each round.
const ORDERS_PER_ROUND: u64 = 20;
/// So many rounds after it came an order goes, and its items with it.
const ORDER_ROUNDS: u64 = 30;
/// So many rounds after it came an item may be sent back.
const RETURN_ROUNDS: u64 = 5;
/// Of so many customers one changes its segment in each round.
const MOVERS: u64 = 50;

/// The generated market; what it does in a round depends on the seed and the round alone.
#[derive(Clone, Debug)]
pub struct Market {
    customers: u64,
    seed: u64,
}

impl Market {
    /// The market of a job.
    pub fn of(job: &Job) -> Self {
        Market::new(job.nodes_or(1000).into(), job.seed())
    }

    /// A market with so many customers.
    pub fn new(customers: u64, seed: u64) -> Self {
        Market { customers, seed }
    }

    /// Customers come in round 0. In each later one some change their segment.
    pub fn customers(&self, round: u64) -> impl Iterator<Item = Change<Customer>> + '_ {
        let of = move |customer: u64| (customer as u32, self.segment(customer, round));
        let was = move |customer: u64| (customer as u32, self.segment(customer, round - 1));
        let moves = (0..self.customers).filter(move |customer| {
            round > 0 && self.moved(*customer, round) > self.moved(*customer, round - 1)
        });
        let moves = moves.flat_map(move |customer| [(was(customer), -1), (of(customer), 1)]);
        let come = (0..self.customers).take_while(move |_| round == 0);
        come.map(move |customer| (of(customer), 1)).chain(moves)
    }

    /// Orders come, and old ones go.
    pub fn orders(&self, round: u64) -> impl Iterator<Item = Change<Order>> + '_ {
        let orders = move |round: u64| orders(round).map(|order| (order, self.customer(order)));
        let old = round.checked_sub(ORDER_ROUNDS).into_iter().flat_map(orders);
        orders(round).map(|order| (order, 1)).chain(old.map(|order| (order, -1)))
    }

    /// The items of orders come and go with them; some are sent back.
    pub fn items(&self, round: u64) -> impl Iterator<Item = Change<Item>> + '_ {
        let items = move |back: bool, round: u64| {
            orders(round).flat_map(move |order| self.items_of(order, back))
        };
        let came = items(false, round).chain(items(true, round)).map(|item| (item, 1));
        let back = round.checked_sub(RETURN_ROUNDS).into_iter();
        let back = back.flat_map(move |round| items(true, round));
        let old = round.checked_sub(ORDER_ROUNDS).into_iter();
        let old = old.flat_map(move |round| items(false, round));
        came.chain(back.chain(old).map(|item| (item, -1)))
    }

    /// How often a customer has changed its segment up to a round.
    fn moved(&self, customer: u64, round: u64) -> u64 {
        (round + random(self.seed ^ 1, customer) % MOVERS) / MOVERS
    }

    fn segment(&self, customer: u64, round: u64) -> String {
        let number = random(self.seed ^ 2, customer) % 5 + self.moved(customer, round);
        SEGMENTS[(number % SEGMENTS.len() as u64) as usize].to_owned()
    }

    fn customer(&self, order: u64) -> u32 {
        (random(self.seed ^ 3, order) % self.customers) as u32
    }

    /// The items of an order that are sent back, or those that are not.
    fn items_of(&self, order: u64, back: bool) -> impl Iterator<Item = Item> + '_ {
        let count = 1 + random(self.seed ^ 4, order) % 7;
        let numbers = (0..count).map(move |item| random(self.seed ^ 5, order * 8 + item));
        let numbers = numbers.filter(move |number| (number % 10 == 0) == back);
        numbers.map(move |number| (order, 100 + (number / 10 % 100_000) as u32))
    }
}

/// The numbers of the orders that come in a round.
fn orders(round: u64) -> std::ops::Range<u64> {
    round * ORDERS_PER_ROUND..(round + 1) * ORDERS_PER_ROUND
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fmt::Debug;

    use super::*;

    /// What is there after some rounds, each with how often.
    fn after<D: Ord + Debug, I: Iterator<Item = Change<D>>>(
        rounds: u64,
        changes: impl Fn(u64) -> I,
    ) -> BTreeMap<D, isize> {
        let mut present = BTreeMap::new();
        for (record, change) in (0..rounds).flat_map(changes) {
            *present.entry(record).or_insert(0) += change;
        }
        assert!(present.values().all(|count| *count >= 0), "what goes has come: {present:?}");
        present.retain(|_record, count| *count != 0);
        present
    }

    #[test]
    fn what_goes_has_come() {
        let market = Market::new(100, 7);
        for rounds in [1, 2, 30, 31, 120] {
            let customers = after(rounds, |round| market.customers(round));
            assert_eq!(customers.keys().map(|(customer, _)| *customer).collect::<Vec<_>>(), {
                (0..100).collect::<Vec<_>>()
            });
            let orders = after(rounds, |round| market.orders(round));
            assert_eq!(orders.len() as u64, rounds.min(ORDER_ROUNDS) * ORDERS_PER_ROUND);
            let items = after(rounds, |round| market.items(round));
            let first = orders.keys().map(|(order, _)| *order).min();
            assert!(items.keys().map(|(order, _)| *order).min() >= first);
        }
    }

    #[test]
    fn customers_move_and_items_come_back() {
        let market = Market::new(100, 7);
        let moved = (1..50).flat_map(|round| market.customers(round)).count();
        assert!(moved > 50, "{moved}");
        let gone = market.items(RETURN_ROUNDS).filter(|(_, change)| *change < 0).count();
        assert!(gone > 0);
    }
}
