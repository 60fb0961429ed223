-- Where vehicles stood for five minutes or longer.
CREATE MATERIALIZED VIEW stops
WITH (key = 'vehicle_id, started_at',
      retention = '2 hours')
AS
SELECT * FROM stops(speed_kmh => 5, radius_m => 100, lasting => interval '5 minutes');
