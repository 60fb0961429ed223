-- Holes of five minutes and more in a device's own time, and how far it got meanwhile. Kept for six hours after arrival.
CREATE MATERIALIZED VIEW telemetry_gaps
WITH (key = 'device_id, until, seq',
      sinks = 'clickhouse')
AS
SELECT device_id, from_ts AS since, ts AS until, seq, (CAST(ts AS bigint) - CAST(from_ts AS bigint)) / 1000 AS gap_s,
       distance_km(from_lat, from_lon, lat, lon) AS km
FROM (
    SELECT device_id, ts, seq, lat, lon,
           lag(ts) OVER (PARTITION BY device_id ORDER BY ts, seq) AS from_ts,
           lag(lat) OVER (PARTITION BY device_id ORDER BY ts, seq) AS from_lat,
           lag(lon) OVER (PARTITION BY device_id ORDER BY ts, seq) AS from_lon
    FROM telemetry
    WHERE arrived_at > now() - interval '6 hours'
)
WHERE CAST(ts AS bigint) - CAST(from_ts AS bigint) >= 300000;
