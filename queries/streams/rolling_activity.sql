-- Fixes and top speed per company in the last 5 minutes of device time, anew every minute.
CREATE MATERIALIZED VIEW rolling_activity
WITH (key = 'company_id, window_start',
      retention = '1 hour',
      access = 'company_id')
AS
SELECT company_id, hop(ts, interval '1 minute', interval '5 minutes') AS window_start,
       count(*) AS fixes, max(speed_kmh) AS top_speed_kmh
FROM telemetry_enriched
WHERE company_id IS NOT NULL
GROUP BY 1, 2;
