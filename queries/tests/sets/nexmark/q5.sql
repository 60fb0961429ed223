-- The auctions with the most bids in each 10 seconds, every 5 seconds.
WITH counted AS (
  SELECT auction, hop(ts, interval '5 seconds', interval '10 seconds') AS window_start, count(*) AS num
  FROM bid
  GROUP BY 1, 2),
best AS (SELECT window_start, max(num) AS maxn FROM counted GROUP BY window_start)
SELECT c.auction, c.num, c.window_start
FROM counted c JOIN best m ON c.window_start = m.window_start AND c.num >= m.maxn
