-- session(ts, 3 seconds) per bidder.
WITH gaps AS (
  SELECT bidder, ts,
         lag(ts) OVER (PARTITION BY bidder ORDER BY ts) AS before
  FROM bid),
numbered AS (
  SELECT bidder, ts,
         sum(CASE WHEN before IS NULL OR ts - before > interval '3 seconds' THEN 1 ELSE 0 END)
           OVER (PARTITION BY bidder ORDER BY ts) AS session
  FROM gaps)
SELECT bidder, min(ts) AS starts, count(*) AS bids, max(ts) AS ends
FROM numbered
GROUP BY bidder, session
