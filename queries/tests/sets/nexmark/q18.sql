SELECT auction, bidder, price, channel, ts
FROM (
  SELECT *, row_number() OVER (PARTITION BY bidder, auction ORDER BY ts DESC, price, channel, extra) AS place
  FROM bid) AS placed
WHERE place <= 1
