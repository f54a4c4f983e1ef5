//! Revenue by segment of the market, by a join of customers, orders and items, protected.
//!
//! Lines `segment<TAB>revenue<TAB>round<TAB>change`; summed up to a round, they say what the orders of that
//! segment's customers bring then, in cents. `dd_orders_bare` is the same job on bare differential
//! dataflow.
//!
//! ```text
//! cargo run --release --example dd_orders -- --local 3 --fault kill:1@500ms -- --out DIR
//! ```

mod support;

use std::error::Error;

use ringfence::prelude::*;
use support::job::Job;
use support::orders::{Customer, Item, Market, Order};
use timely::dataflow::ProbeHandle;

fn main() -> Result<(), Box<dyn Error>> {
    let job = Job::from_args();
    let market = Market::of(&job);
    let (rounds, out, pace) = (job.rounds(), job.out(), job.pace());
    ringfence::execute(job.config(), move |worker| {
        let mut customers = FencedSession::<u64, Customer, isize>::new("customers");
        let mut orders = FencedSession::<u64, Order, isize>::new("orders");
        let mut items = FencedSession::<u64, Item, isize>::new("items");
        let probe = ProbeHandle::new();

        worker.dataflow::<u64, _, _>(|scope| {
            let customers = customers.to_collection(scope);
            let orders = orders.to_collection(scope).map(|(order, customer)| (customer, order));
            let items = items.to_collection(scope);
            customers
                .join_map_fenced("orders", orders, |_, segment, order| (*order, segment.clone()))
                .join_map_fenced("items", items, |_, segment, cents| (segment.clone(), *cents))
                .explode(|(segment, cents)| Some((segment, cents as isize)))
                .count_fenced("revenue")
                .probe_with(&probe)
                .sink_fenced("out", LineFiles::new(&out));
        });

        for round in customers.resume().min(orders.resume()).min(items.resume())..rounds {
            for (number, (customer, change)) in (0..).zip(market.customers(round)) {
                customers.update_to(number % customers.share_count(), customer, change);
            }
            for (number, (order, change)) in (0..).zip(market.orders(round)) {
                orders.update_to(number % orders.share_count(), order, change);
            }
            for (number, (item, change)) in (0..).zip(market.items(round)) {
                items.update_to(number % items.share_count(), item, change);
            }
            customers.advance_to(round + 1);
            customers.flush();
            orders.advance_to(round + 1);
            orders.flush();
            items.advance_to(round + 1);
            items.flush();
            while probe.less_than(items.time()) {
                worker.step();
            }
            std::thread::sleep(pace);
        }
    })?;
    job.report();
    Ok(())
}
