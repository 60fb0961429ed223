SELECT *
FROM (
  SELECT *, row_number() OVER (PARTITION BY auction ORDER BY price DESC, ts, bidder, channel, url, extra) AS place
  FROM bid) AS placed
WHERE place <= 3
