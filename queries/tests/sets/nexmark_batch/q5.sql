-- hop(ts, 5 seconds, 10 seconds): each bid belongs to two windows.
WITH hopping AS (
  SELECT b.auction, date_bin(interval '5 seconds', b.ts) - h.back AS window_start
  FROM bid b CROSS JOIN (VALUES (interval '0 seconds'), (interval '5 seconds')) AS h (back)),
counted AS (SELECT auction, window_start, count(*) AS num FROM hopping GROUP BY auction, window_start),
best AS (SELECT window_start, max(num) AS maxn FROM counted GROUP BY window_start)
SELECT c.auction, c.num, c.window_start
FROM counted c JOIN best m ON c.window_start = m.window_start AND c.num >= m.maxn
