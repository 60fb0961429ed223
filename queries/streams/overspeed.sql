-- Overspeeding by driver, per 5 minutes of device time. The limit is the tariff's, as it stood when the fix arrived.
CREATE MATERIALIZED VIEW overspeed
WITH (key = 'company_id, driver_id, window_start',
      retention = '7 days',
      sinks = 'clickhouse, kafka, edge',
      access = 'company_id')
AS
SELECT e.company_id, e.driver_id, date_bin(interval '5 minutes', e.ts) AS window_start,
       count(*) AS fixes, max(e.speed_kmh) AS top_speed_kmh
FROM telemetry_enriched e
LEFT JOIN tariffs t ON t.tariff_id = e.tariff_id
WHERE e.driver_id IS NOT NULL
  AND e.speed_kmh > coalesce(json_number(t.limits, 'speed_kmh'), 100)
GROUP BY 1, 2, 3;
