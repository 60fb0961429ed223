-- The vehicle's own data as it was when the message was made, not when it came.
CREATE MATERIALIZED VIEW driver_then
WITH (key = 'device_id, seq', as_of = 'event time', horizon = '1 hour')
AS
SELECT t.device_id, t.seq, v.plate
FROM telemetry t LEFT JOIN vehicles v ON v.device_id = t.device_id;
