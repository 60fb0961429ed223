-- The ten vehicles of a company that drove farthest on a day.
CREATE MATERIALIZED VIEW top_distance
WITH (key = 'company_id, day, place',
      sinks = 'edge',
      access = 'company_id')
AS
SELECT company_id, day, place, vehicle_id, km
FROM (
    SELECT company_id, day, vehicle_id, km,
           row_number() OVER (PARTITION BY company_id, day ORDER BY km DESC, vehicle_id) AS place
    FROM daily_mileage
)
WHERE place <= 10;
