-- The ignition is on and the vehicle has not moved in the ten minutes from then on: known when these are over, and shown for a day.
CREATE MATERIALIZED VIEW unmoved
WITH (key = 'device_id, seq', retention = '1 hour')
AS
SELECT o.device_id, o.seq, o.ts FROM telemetry o
WHERE o.ignition AND o.speed_kmh < 5
  AND NOT EXISTS (SELECT 1 FROM telemetry m WHERE m.device_id = o.device_id AND m.speed_kmh >= 5
                  AND m.ts BETWEEN o.ts AND o.ts + interval '10 minutes')
  AND o.ts < now() - interval '10 minutes' AND o.ts > now() - interval '1 day';
