-- How vehicles moved between their stops.
CREATE MATERIALIZED VIEW trips
WITH (key = 'vehicle_id, started_at',
      retention = '2 hours')
AS
SELECT vehicle_id, started_at, ended_at, from_lat, from_lon, to_lat, to_lon, round(distance_km, 1) AS distance_km,
       top_speed_kmh, fixes, finished
FROM trips(speed_kmh => 5, radius_m => 100, lasting => interval '5 minutes');
