SELECT b.auction, b.price, b.bidder, b.ts, m.window_start
FROM bid b JOIN (
  SELECT max(price) AS maxprice, date_bin(interval '10 seconds', ts) AS window_start
  FROM bid
  GROUP BY date_bin(interval '10 seconds', ts)) AS m
ON b.price = m.maxprice AND date_bin(interval '10 seconds', b.ts) = m.window_start
