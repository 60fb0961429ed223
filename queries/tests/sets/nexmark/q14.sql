SELECT auction, bidder, 0.908 * price AS price,
       CASE WHEN extract(second FROM ts) >= 8 AND extract(second FROM ts) <= 18 THEN 'dayTime'
            WHEN extract(second FROM ts) <= 6 OR extract(second FROM ts) >= 20 THEN 'nightTime'
            ELSE 'otherTime' END AS bid_time_type, ts, extra
FROM bid
WHERE 0.908 * price > 300 AND 0.908 * price < 900
