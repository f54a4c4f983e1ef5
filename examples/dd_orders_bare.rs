//! Revenue by segment of the market, by a join of customers, orders and items, on bare differential dataflow.
//!
//! Lines `segment<TAB>revenue<TAB>round<TAB>change`; summed up to a round, they say what the orders of that
//! segment's customers bring then, in cents. `dd_orders` is the same job, protected.
//!
//! ```text
//! cargo run --release --example dd_orders_bare -- -w 2 -- --out DIR
//! ```

mod support;

use std::error::Error;

use differential_dataflow::input::InputSession;
use support::job::Job;
use support::lines::WriteUpdates;
use support::orders::{Customer, Item, Market, Order};
use timely::dataflow::ProbeHandle;

fn main() -> Result<(), Box<dyn Error>> {
    let job = Job::from_args();
    let market = Market::of(&job);
    let (rounds, out, pace) = (job.rounds(), job.out(), job.pace());
    timely::execute_from_args(job.args(), move |worker| {
        let mut customers = InputSession::<u64, Customer, isize>::new();
        let mut orders = InputSession::<u64, Order, isize>::new();
        let mut items = InputSession::<u64, Item, isize>::new();
        let probe = ProbeHandle::new();

        worker.dataflow::<u64, _, _>(|scope| {
            let customers = customers.to_collection(scope);
            let orders = orders.to_collection(scope).map(|(order, customer)| (customer, order));
            let items = items.to_collection(scope);
            customers
                .join_map(orders, |_, segment, order| (*order, segment.clone()))
                .join_map(items, |_, segment, cents| (segment.clone(), *cents))
                .explode(|(segment, cents)| Some((segment, cents as isize)))
                .count()
                .probe_with(&probe)
                .write_lines(&out);
        });

        for round in 0..rounds {
            let (index, peers) = (worker.index(), worker.peers());
            for (customer, change) in market.customers(round).skip(index).step_by(peers) {
                customers.update(customer, change);
            }
            for (order, change) in market.orders(round).skip(index).step_by(peers) {
                orders.update(order, change);
            }
            for (item, change) in market.items(round).skip(index).step_by(peers) {
                items.update(item, change);
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
