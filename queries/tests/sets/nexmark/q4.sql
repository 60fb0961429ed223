SELECT category, avg(final) AS avg_final
FROM (
  SELECT max(b.price) AS final, a.category
  FROM auction a JOIN bid b ON a.id = b.auction
  WHERE b.ts BETWEEN a.ts AND a.expires
  GROUP BY a.id, a.category) AS q
GROUP BY category
