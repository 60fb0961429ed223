-- Whether each device is heard of, and since when: the newest of its events.
CREATE MATERIALIZED VIEW connectivity
WITH (key = 'device_id')
AS
SELECT device_id, kind = 'device.online' AS online, since
FROM (
    SELECT DISTINCT ON (device_id) device_id, kind, since
    FROM vehicle_events
    ORDER BY device_id, arrived_at DESC, since DESC, kind
);
