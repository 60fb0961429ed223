-- The newest fix of each vehicle by device time, with the references as they stood when it arrived.
CREATE MATERIALIZED VIEW vehicle_latest
WITH (key = 'vehicle_id',
      sinks = 'redis, edge',
      access = 'company_id')
AS
SELECT DISTINCT ON (vehicle_id)
       vehicle_id, device_id, plate, company_id, driver_id, ts, seq, lat, lon, speed_kmh, heading_deg, ignition,
       fuel_level_pct, odometer_km
FROM telemetry_enriched
WHERE vehicle_id IS NOT NULL
ORDER BY vehicle_id, ts DESC, seq DESC;
