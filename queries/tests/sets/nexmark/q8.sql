SELECT p.id, p.name, p.window_start
FROM (
  SELECT id, name, date_bin(interval '10 seconds', ts) AS window_start
  FROM person
  GROUP BY id, name, date_bin(interval '10 seconds', ts)) AS p
JOIN (
  SELECT seller, date_bin(interval '10 seconds', ts) AS window_start
  FROM auction
  GROUP BY seller, date_bin(interval '10 seconds', ts)) AS a
ON p.id = a.seller AND p.window_start = a.window_start
