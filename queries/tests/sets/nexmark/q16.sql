SELECT channel, date_bin(interval '1 minute', ts) AS day, max(to_char(ts, '%H:%M')) AS minute, count(*) AS total_bids,
       count(*) FILTER (WHERE price < 300) AS rank1_bids, count(DISTINCT bidder) AS total_bidders,
       count(DISTINCT auction) FILTER (WHERE price >= 700) AS rank3_auctions
FROM bid
GROUP BY channel, date_bin(interval '1 minute', ts)
