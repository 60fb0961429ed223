-- Bids of a bidder that follow each other within 3 seconds.
SELECT bidder, session(ts, interval '3 seconds') AS starts, count(*) AS bids, max(ts) AS ends
FROM bid
GROUP BY bidder, session(ts, interval '3 seconds')
