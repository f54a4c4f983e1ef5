//! The first eight queries of NEXMark, on bare timely.
//!
//! Windows are of event time and closed by data: see `support/auction.rs`. `--query` says which query,
//! and each function below what its lines are. `nexmark` is the same job, protected.
//!
//! ```text
//! cargo run --release --example nexmark_bare -- -w 2 -- --query 5 --out DIR
//! ```

pub(crate) mod support;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::error::Error;

use nexmark::event::{Auction, Bid, Event, Person};
use serde::{Deserialize, Serialize};
use support::auction::{Item, Market, WINDOW_MS, What, window};
use support::job::Job;
use support::lines::WriteLines;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::vec::Map;
use timely::dataflow::operators::{Operator, ToStream};

/// Into how many parts the auctions are split.
const SLOTS: u64 = 16;

type Items<'scope> = StreamVec<'scope, u64, Item>;
type Lines<'scope> = StreamVec<'scope, u64, String>;

fn main() -> Result<(), Box<dyn Error>> {
    run()?.report();
    Ok(())
}

/// Runs the query that the command line asks for; `benches/nexmark.rs` does the same.
pub(crate) fn run() -> Result<Job, Box<dyn Error>> {
    let job = Job::from_args();
    let (market, query, out) = (Market::of(&job), job.query(), job.out());
    timely::execute_from_args(job.args(), move |worker| {
        worker.dataflow::<u64, _, _>(|scope| {
            let items = market.share(scope.index(), scope.peers()).to_stream(scope);
            let lines = match query {
                1 => currency(items),
                2 => selection(items),
                3 => local_items(items),
                4 => prices_of_categories(items),
                5 => hot_items(items),
                6 => prices_of_sellers(items),
                7 => highest_bids(items),
                _ => new_users(items),
            };
            lines.write_lines(&out);
        });
    })?;
    Ok(job)
}

/// Query 1: each bid, with its price in another currency: `auction bidder price time`.
fn currency(items: Items<'_>) -> Lines<'_> {
    bids(items).map(|bid| {
        let price = bid.price * 908 / 1000;
        format!("{}\t{}\t{price}\t{}", bid.auction, bid.bidder, bid.date_time)
    })
}

/// Query 2: the bids for some auctions: `auction price`.
fn selection(items: Items<'_>) -> Lines<'_> {
    bids(items)
        .flat_map(|bid| (bid.auction % 123 == 0).then(|| format!("{}\t{}", bid.auction, bid.price)))
}

/// Query 3: who sells in category 10 from three states: `name city state auction`.
fn local_items(items: Items<'_>) -> Lines<'_> {
    let persons = persons(items.clone())
        .flat_map(|person| ["or", "id", "ca"].contains(&person.state.as_str()).then_some(person));
    let auctions = auctions(items).flat_map(|it| (it.category == 10).then_some(it));
    let by_id = Exchange::new(|person: &Person| person.id as u64);
    let by_seller = Exchange::new(|auction: &Auction| auction.seller as u64);
    persons
        .binary(auctions, by_id, by_seller, "local_items", |_capability, _info| {
            let mut sellers = HashMap::<usize, String>::new();
            let mut waiting = HashMap::<usize, Vec<usize>>::new();
            move |persons, auctions, output| {
                persons.for_each_stamp(|capability, batches| {
                    let mut session = output.session(&capability);
                    for person in batches.flat_map(|batch| batch.drain(..)) {
                        let seller = format!("{}\t{}\t{}", person.name, person.city, person.state);
                        for auction in waiting.remove(&person.id).unwrap_or_default() {
                            session.give(format!("{seller}\t{auction}"));
                        }
                        sellers.insert(person.id, seller);
                    }
                });
                auctions.for_each_stamp(|capability, batches| {
                    let mut session = output.session(&capability);
                    for auction in batches.flat_map(|batch| batch.drain(..)) {
                        match sellers.get(&auction.seller) {
                            Some(seller) => session.give(format!("{}\t{}", *seller, auction.id)),
                            None => waiting.entry(auction.seller).or_default().push(auction.id),
                        }
                    }
                });
            }
        })
        .container::<Vec<_>>()
}

/// Query 4: after each window, the mean price of all auctions of a category that sold:
/// `window category price`.
fn prices_of_categories(items: Items<'_>) -> Lines<'_> {
    type Totals = BTreeMap<usize, (usize, usize)>;
    gather(sold(items), "prices", |totals: &mut Totals, window, sales| {
        for sale in sales {
            let total = totals.entry(sale.category).or_default();
            *total = (total.0 + sale.price, total.1 + 1);
        }
        let mean = |(category, (sum, count)): (&usize, &(usize, usize))| {
            format!("{window}\t{category}\t{}", sum / count)
        };
        totals.iter().map(mean).collect()
    })
}

/// Query 5: the auctions with most bids in the last five windows: `window auction bids`.
fn hot_items(items: Items<'_>) -> Lines<'_> {
    let by_share = Exchange::new(|(share, _what): &Item| *share);
    let counts = items
        .unary(by_share, "bids", |_capability, _info| {
            let mut counts = HashMap::<u64, BTreeMap<usize, u64>>::new();
            move |input, output| {
                input.for_each_stamp(|capability, batches| {
                    let mut session = output.session(&capability);
                    for (share, what) in batches.flat_map(|batch| batch.drain(..)) {
                        match what {
                            What::Event(Event::Bid(bid)) => {
                                let counts = counts.entry(share).or_default();
                                *counts.entry(bid.auction).or_default() += 1;
                            }
                            What::Event(_) => {}
                            What::Passed { window, shares } => {
                                let counts = counts.remove(&share).unwrap_or_default();
                                session.give((window, shares, Vec::from_iter(counts)));
                            }
                        }
                    }
                });
            }
        })
        .container::<Vec<_>>();
    gather(counts, "hot_items", |last: &mut VecDeque<Vec<(usize, u64)>>, window, counts| {
        last.push_front(counts);
        last.truncate(5);
        let mut sums = BTreeMap::new();
        for &(auction, bids) in last.iter().flatten() {
            *sums.entry(auction).or_insert(0) += bids;
        }
        let most = sums.values().max().copied().unwrap_or(0);
        let hot = sums.into_iter().filter(|&(_, bids)| bids == most);
        hot.map(|(auction, bids)| format!("{window}\t{auction}\t{bids}")).collect()
    })
}

/// Query 6: with each auction that sold, the mean of its seller's last ten prices:
/// `seller auction price`.
fn prices_of_sellers(items: Items<'_>) -> Lines<'_> {
    type Last = HashMap<usize, VecDeque<usize>>;
    gather(sold(items), "sellers", |last: &mut Last, _window, mut sales| {
        sales.sort_unstable_by_key(|sale| (sale.expires, sale.auction));
        let line = |sale: Sale| {
            let prices = last.entry(sale.seller).or_default();
            prices.push_front(sale.price);
            prices.truncate(10);
            let mean = prices.iter().sum::<usize>() / prices.len();
            format!("{}\t{}\t{mean}", sale.seller, sale.auction)
        };
        sales.into_iter().map(line).collect()
    })
}

/// Query 7: the highest bid of each window: `window price auction bidder`.
fn highest_bids(items: Items<'_>) -> Lines<'_> {
    let by_share = Exchange::new(|(share, _what): &Item| *share);
    let highest = items
        .unary(by_share, "highest", |_capability, _info| {
            let mut highest = HashMap::<u64, (usize, usize, usize)>::new();
            move |input, output| {
                input.for_each_stamp(|capability, batches| {
                    let mut session = output.session(&capability);
                    for (share, what) in batches.flat_map(|batch| batch.drain(..)) {
                        match what {
                            What::Event(Event::Bid(bid)) => {
                                let bid = (bid.price, bid.auction, bid.bidder);
                                if highest.get(&share).is_none_or(|highest| *highest < bid) {
                                    highest.insert(share, bid);
                                }
                            }
                            What::Event(_) => {}
                            What::Passed { window, shares } => {
                                let highest = highest.remove(&share);
                                session.give((window, shares, Vec::from_iter(highest)));
                            }
                        }
                    }
                });
            }
        })
        .container::<Vec<_>>();
    gather(highest, "highest_bids", |_nothing: &mut (), window, bids| {
        let highest = bids.into_iter().max();
        let line = |(price, auction, bidder)| format!("{window}\t{price}\t{auction}\t{bidder}");
        highest.map(line).into_iter().collect()
    })
}

/// Query 8: who came and sold something within ten windows: `window person name`.
fn new_users(items: Items<'_>) -> Lines<'_> {
    let tens = |time_ms: u64| window(time_ms) / 10;
    let persons =
        persons(items.clone()).map(move |it| ((tens(it.date_time), it.id as u64), it.name));
    let sellers = auctions(items).map(move |it| (tens(it.date_time), it.seller as u64));
    let by_person = Exchange::new(|((_, id), _name): &((u64, u64), String)| *id);
    let by_seller = Exchange::new(|(_, id): &(u64, u64)| *id);
    persons
        .binary(sellers, by_person, by_seller, "new_users", |_capability, _info| {
            let mut names = HashMap::<(u64, u64), String>::new();
            let mut sold = HashMap::<(u64, u64), ()>::new();
            move |persons, sellers, output| {
                persons.for_each_stamp(|capability, batches| {
                    let mut session = output.session(&capability);
                    for ((tens, id), name) in batches.flat_map(|batch| batch.drain(..)) {
                        if sold.contains_key(&(tens, id)) {
                            session.give(format!("{tens}\t{id}\t{name}"));
                        }
                        names.insert((tens, id), name);
                    }
                });
                sellers.for_each_stamp(|capability, batches| {
                    let mut session = output.session(&capability);
                    for (tens, id) in batches.flat_map(|batch| batch.drain(..)) {
                        if sold.insert((tens, id), ()).is_none()
                            && let Some(name) = names.get(&(tens, id))
                        {
                            session.give(format!("{tens}\t{id}\t{}", *name));
                        }
                    }
                });
            }
        })
        .container::<Vec<_>>()
}

fn persons(items: Items<'_>) -> StreamVec<'_, u64, Person> {
    items.flat_map(|(_share, what)| match what {
        What::Event(Event::Person(person)) => Some(person),
        _ => None,
    })
}

fn auctions(items: Items<'_>) -> StreamVec<'_, u64, Auction> {
    items.flat_map(|(_share, what)| match what {
        What::Event(Event::Auction(auction)) => Some(auction),
        _ => None,
    })
}

fn bids(items: Items<'_>) -> StreamVec<'_, u64, Bid> {
    items.flat_map(|(_share, what)| match what {
        What::Event(Event::Bid(bid)) => Some(bid),
        _ => None,
    })
}

/// A window, in how many pieces its results come, and one of these pieces.
type Piece<D> = (u64, u64, Vec<D>);

/// Puts the pieces of each window together, in one place, and tells what comes of them, window by window.
///
/// Whoever sends pieces sends one for each window, in their order: so a window is complete after those
/// before it.
fn gather<'scope, D, S, L>(
    pieces: StreamVec<'scope, u64, Piece<D>>,
    name: &str,
    mut tell: L,
) -> Lines<'scope>
where
    D: Clone + Send + Serialize + for<'de> Deserialize<'de> + 'static,
    S: Clone + Default + Send + Serialize + for<'de> Deserialize<'de> + 'static,
    L: FnMut(&mut S, u64, Vec<D>) -> Vec<String> + Copy + 'static,
{
    let together = Exchange::new(|_piece: &Piece<D>| 0);
    pieces
        .unary(together, name, |_capability, _info| {
            let mut windows = HashMap::<u64, (u64, Vec<D>)>::new();
            let mut memory = HashMap::<(), S>::new();
            move |input, output| {
                input.for_each_stamp(|capability, batches| {
                    let mut session = output.session(&capability);
                    for (window, count, piece) in batches.flat_map(|batch| batch.drain(..)) {
                        let mut gathered = windows.remove(&window).unwrap_or_default();
                        gathered.0 += 1;
                        gathered.1.extend(piece);
                        if gathered.0 < count {
                            windows.insert(window, gathered);
                        } else {
                            let memory = memory.entry(()).or_default();
                            for line in tell(memory, window, gathered.1) {
                                session.give(line);
                            }
                        }
                    }
                });
            }
        })
        .container::<Vec<_>>()
}

/// An auction that ended with a bid.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Sale {
    auction: usize,
    category: usize,
    seller: usize,
    expires: u64,
    price: usize,
}

/// What concerns the auctions of one slot.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Part {
    Auction { id: usize, category: usize, seller: usize, from: u64, expires: u64 },
    Bid { auction: usize, time: u64, price: usize },
    Passed { window: u64, shares: u64 },
}

/// An auction that has not ended: what sells if no better bid comes, and when it began.
type Open = (u64, Sale);

/// A sale for each auction that ended in a window, at its highest bid, in a piece for each slot.
fn sold(items: Items<'_>) -> StreamVec<'_, u64, Piece<Sale>> {
    let parts = items.flat_map(|(_share, what)| {
        let slot = |auction: usize| auction as u64 % SLOTS;
        match what {
            What::Event(Event::Person(_)) => Vec::new(),
            What::Event(Event::Auction(it)) => {
                let (id, category, seller) = (it.id, it.category, it.seller);
                let (from, expires) = (it.date_time, it.expires);
                vec![(slot(id), Part::Auction { id, category, seller, from, expires })]
            }
            What::Event(Event::Bid(it)) => {
                let (auction, time, price) = (it.auction, it.date_time, it.price);
                vec![(slot(auction), Part::Bid { auction, time, price })]
            }
            What::Passed { window, shares } => {
                (0..SLOTS).map(|slot| (slot, Part::Passed { window, shares })).collect()
            }
        }
    });
    let by_slot = Exchange::new(|(slot, _part): &(u64, Part)| *slot);
    parts
        .unary(by_slot, "sold", |_capability, _info| {
            let mut open = HashMap::<usize, Open>::new();
            let mut early = HashMap::<usize, Vec<(u64, usize)>>::new();
            let mut passed = HashMap::<(u64, u64), u64>::new();
            move |input, output| {
                input.for_each_stamp(|capability, batches| {
                    let mut session = output.session(&capability);
                    for (slot, part) in batches.flat_map(|batch| batch.drain(..)) {
                        match part {
                            Part::Auction { id, category, seller, from, expires } => {
                                let bids = early.remove(&id).unwrap_or_default();
                                let in_time =
                                    bids.iter().filter(|bid| within(bid.0, from, expires));
                                let price = in_time.map(|bid| bid.1).max().unwrap_or(0);
                                let sale = Sale { auction: id, category, seller, expires, price };
                                open.insert(id, (from, sale));
                            }
                            Part::Bid { auction, time, price } => match open.get_mut(&auction) {
                                Some(it) => {
                                    if within(time, it.0, it.1.expires) && price > it.1.price {
                                        it.1.price = price;
                                    }
                                }
                                None => early.entry(auction).or_default().push((time, price)),
                            },
                            Part::Passed { window, shares } => {
                                let reports = passed.remove(&(slot, window)).unwrap_or(0) + 1;
                                if reports < shares {
                                    passed.insert((slot, window), reports);
                                    continue;
                                }
                                // All that was before this time is here.
                                let end = (window + 1) * WINDOW_MS;
                                let is_here = |auction: &usize| *auction as u64 % SLOTS == slot;
                                let ended = open
                                    .iter()
                                    .filter(|(id, it)| is_here(id) && it.1.expires < end);
                                let ended: Vec<usize> =
                                    ended.map(|(id, _)| id.to_owned()).collect();
                                let sales = ended.iter().filter_map(|id| open.remove(id));
                                let sales = sales.map(|it| it.1).filter(|sale| sale.price > 0);
                                session.give((window, SLOTS, sales.collect()));
                                // A bid before its auction began is none.
                                let void = early.iter().filter(|(id, bids)| {
                                    is_here(id) && bids.iter().all(|bid| bid.0 < end)
                                });
                                let void: Vec<usize> = void.map(|(id, _)| id.to_owned()).collect();
                                for auction in &void {
                                    early.remove(auction);
                                }
                            }
                        }
                    }
                });
            }
        })
        .container::<Vec<_>>()
}

fn within(time: u64, from: u64, expires: u64) -> bool {
    from <= time && time <= expires
}
