-- Messages of the last day, with the vehicle also where that was entered after the message came.
CREATE MATERIALIZED VIEW repaired
WITH (key = 'device_id, seq', correct_for = '1 hour')
AS
SELECT t.device_id, t.seq, v.plate
FROM telemetry t LEFT JOIN vehicles v ON v.device_id = t.device_id
WHERE t.arrived_at > now() - interval '1 day';
