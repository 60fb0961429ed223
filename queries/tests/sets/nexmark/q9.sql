SELECT id, item, seller, category, bidder, price, bid_ts
FROM (
  SELECT a.id, a.item, a.seller, a.category, b.bidder, b.price, b.ts AS bid_ts,
         row_number() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.ts, b.bidder) AS place
  FROM auction a JOIN bid b ON a.id = b.auction
  WHERE b.ts BETWEEN a.ts AND a.expires) AS placed
WHERE place <= 1
