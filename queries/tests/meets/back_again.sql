-- Devices that fell silent, and when they came back within the hour; null until they do.
CREATE MATERIALIZED VIEW back_again
WITH (key = 'device_id, silent_at', retention = '1 hour')
AS
SELECT o.device_id, o.since AS silent_at, b.since AS back_at
FROM vehicle_events o LEFT JOIN vehicle_events b ON b.device_id = o.device_id AND b.kind = 'device.online'
 AND b.since BETWEEN o.since AND o.since + interval '1 hour'
WHERE o.kind = 'device.offline' AND o.since > now() - interval '1 day';
