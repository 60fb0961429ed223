-- Fuel that is gone between two fixes of a standing vehicle: theft, or a leak. Alerts stay for an hour.
CREATE MATERIALIZED VIEW fuel_drop
WITH (key = 'vehicle_id, ts, seq',
      sinks = 'kafka, edge',
      access = 'company_id')
AS
SELECT company_id, vehicle_id, ts, seq, lat, lon, before_pct, fuel_level_pct AS after_pct
FROM (
    SELECT company_id, vehicle_id, ts, seq, lat, lon, speed_kmh, fuel_level_pct,
           lag(fuel_level_pct) OVER (PARTITION BY vehicle_id ORDER BY ts, seq) AS before_pct
    FROM telemetry_enriched
    WHERE arrived_at > now() - interval '1 hour'
      AND vehicle_id IS NOT NULL AND fuel_level_pct IS NOT NULL
)
WHERE speed_kmh < 5 AND before_pct - fuel_level_pct >= 10;
