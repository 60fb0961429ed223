-- Braking of 3.5 m/s² or more between two fixes at most 15 seconds apart. Kept for 15 minutes after arrival.
CREATE MATERIALIZED VIEW harsh_braking
WITH (key = 'vehicle_id, ts, seq',
      sinks = 'kafka, edge',
      access = 'company_id')
AS
SELECT company_id, vehicle_id, driver_id, ts, seq, lat, lon, before_kmh, speed_kmh AS after_kmh,
       (before_kmh - speed_kmh) / 3.6 / (CAST(CAST(ts AS bigint) - before_ms AS double) / 1000) AS deceleration_ms2
FROM (
    SELECT company_id, vehicle_id, driver_id, ts, seq, lat, lon, speed_kmh,
           lag(speed_kmh) OVER (PARTITION BY vehicle_id ORDER BY ts, seq) AS before_kmh,
           lag(CAST(ts AS bigint)) OVER (PARTITION BY vehicle_id ORDER BY ts, seq) AS before_ms
    FROM telemetry_enriched
    WHERE arrived_at > now() - interval '15 minutes'
      AND vehicle_id IS NOT NULL AND speed_kmh IS NOT NULL
)
WHERE CAST(ts AS bigint) - before_ms BETWEEN 1 AND 15000
  AND (before_kmh - speed_kmh) / 3.6 >= 3.5 * (CAST(CAST(ts AS bigint) - before_ms AS double) / 1000);
