-- Fixes, average and top speed per company and minute of device time.
CREATE MATERIALIZED VIEW company_minute
WITH (key = 'company_id, window_start',
      retention = '1 hour',
      access = 'company_id')
AS
SELECT company_id, date_bin(interval '1 minute', ts) AS window_start,
       count(*) AS fixes, avg(speed_kmh) AS average_speed_kmh, max(speed_kmh) AS top_speed_kmh
FROM telemetry_enriched
WHERE company_id IS NOT NULL
GROUP BY 1, 2;
