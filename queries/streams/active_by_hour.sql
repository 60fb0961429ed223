-- Vehicles that moved, by hour of the day on the clock of their company, over the last seven days.
CREATE MATERIALIZED VIEW active_by_hour
WITH (key = 'company_id, hour_of_day',
      retention = '7 days',
      sinks = 'edge',
      access = 'company_id')
AS
SELECT company_id, CAST(date_part('hour', hour) AS bigint) AS hour_of_day, count(DISTINCT vehicle_id) AS vehicles
FROM (
    SELECT DISTINCT e.company_id, e.vehicle_id,
           date_trunc('hour', local_time(e.ts, coalesce(c.time_zone, 'UTC'))) AS hour
    FROM telemetry_enriched e
    JOIN companies c ON c.company_id = e.company_id
    WHERE e.speed_kmh > 5 AND e.vehicle_id IS NOT NULL
)
GROUP BY 1, 2;
