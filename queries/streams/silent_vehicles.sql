-- Vehicles from which nothing has come for ten minutes, with what is known of them.
CREATE MATERIALIZED VIEW silent_vehicles
WITH (key = 'vehicle_id')
AS
SELECT s.vehicle_id, s.silent_since, v.plate
FROM silence(lasting => interval '10 minutes') AS s
LEFT JOIN vehicles v ON v.vehicle_id = s.vehicle_id;
