-- What a device reported in the five minutes before it fell silent: where to look for it, and whether its power was failing.
-- The event comes when the silence is noticed; fixes that the device had kept may still come an hour later.
CREATE MATERIALIZED VIEW before_offline
WITH (key = 'device_id, since, ts, seq',
      retention = '1 hour',
      sinks = 'clickhouse',
      access = 'company_id')
AS
SELECT e.company_id, e.vehicle_id, e.device_id, e.since, t.ts, t.seq, t.lat, t.lon, t.speed_kmh, t.battery_v
FROM vehicle_events e JOIN telemetry t ON t.device_id = e.device_id
 AND t.ts BETWEEN e.since - interval '5 minutes' AND e.since
WHERE e.kind = 'device.offline';
