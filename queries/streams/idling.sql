-- Minutes with the engine on and the vehicle standing, per vehicle and hour of device time.
CREATE MATERIALIZED VIEW idling
WITH (key = 'vehicle_id, hour',
      retention = '2 days',
      sinks = 'clickhouse',
      access = 'company_id')
AS
SELECT company_id, vehicle_id, date_bin(interval '1 hour', ts) AS hour,
       count(DISTINCT date_bin(interval '1 minute', ts)) AS idle_minutes
FROM telemetry_enriched
WHERE ignition AND speed_kmh < 2 AND vehicle_id IS NOT NULL
GROUP BY 1, 2, 3;
