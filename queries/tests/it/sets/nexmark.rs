//! The three tables of Nexmark: people who sell and bid, auctions and bids. Rows only come, about in the order of their time.

use operators::time::Tick;

use super::story::{Story, int, text, time};
use crate::generate::Random;
use crate::harness::Changing;

const PEOPLE: &str = "id int, name text, email text, city text, state text, ts time, extra text";
const AUCTIONS: &str =
    "id int, item text, initial int, reserve int, ts time, expires time, seller int, category int, extra text";
const BIDS: &str = "auction int, bidder int, price int, channel text, url text, ts time, extra text";

/// Rows at 11 ticks, each of which brings six seconds.
pub fn tables(seed: u64) -> Vec<Changing> {
    let mut random = Random::new(seed);
    let random = &mut random;
    let (mut people, mut auctions, mut bids) =
        (Story::new("person", PEOPLE), Story::new("auction", AUCTIONS), Story::new("bid", BIDS));
    for round in 0..11i64 {
        let tick: Tick = 1_000 + round as u64 * 10;
        for id in round * 2..round * 2 + 2 {
            let city = *random.of(&["Portland", "Boise", "Berlin"]);
            let state = *random.of(&["OR", "ID", "CA", "WA"]);
            let (name, email) = (text(format!("Person {id}")), text(format!("{id}@example.org")));
            people.put(tick, id, vec![int(id), name, email, text(city), text(state), at(random, round), text("")]);
        }
        for id in round * 3..round * 3 + 3 {
            let (initial, starts) = (random.below(200) as i64, START + round * 6_000 + random.below(6_000) as i64);
            auctions.put(
                tick,
                id,
                vec![
                    int(id),
                    text(format!("Item {}", random.below(5))),
                    int(initial),
                    int(initial + random.below(400) as i64),
                    time(starts),
                    time(starts + 4_000 + random.below(20_000) as i64),
                    int(random.below(2 * round as usize + 2) as i64),
                    int(10 + random.below(3) as i64),
                    text(""),
                ],
            );
        }
        for id in round * 14..round * 14 + 14 {
            let last = 3 * round + 2;
            let auction = last - random.below((last as usize + 1).min(8)) as i64;
            let bidder = random.below((2 * round as usize + 2).min(7)) as i64;
            let (channel, url) = *random.of(&[
                ("Google", "https://www.nexmark.com/googl/item.htm?query=1"),
                ("Apple", "https://www.nexmark.com/apple/item.htm?query=1"),
                ("channel-77", "https://www.nexmark.com/abo/qab/item.htm?query=1&channel_id=77"),
                ("none", "https://www.nexmark.com/abo/item.htm?query=1"),
            ]);
            let price = int(50 + random.below(1_000) as i64);
            bids.put(
                tick,
                id,
                vec![
                    int(auction),
                    int(bidder),
                    price,
                    text(channel),
                    text(url),
                    at(random, round),
                    text(id.to_string()),
                ],
            );
        }
    }
    [people, auctions, bids].into_iter().map(Story::told).collect()
}

/// 2024-01-01 in milliseconds since 1970.
const START: i64 = 1_704_067_200_000;

/// A time of about this round.
fn at(random: &mut Random, round: i64) -> datafusion::common::ScalarValue {
    time(START + round * 6_000 + random.below(9_000) as i64)
}
