-- Kilometres per vehicle and day of its company's time zone, by the odometer.
CREATE MATERIALIZED VIEW daily_mileage
WITH (key = 'vehicle_id, day',
      retention = '3 days',
      sinks = 'clickhouse',
      access = 'company_id')
AS
SELECT e.company_id, e.vehicle_id, date_trunc('day', local_time(e.ts, coalesce(c.time_zone, 'UTC'))) AS day,
       max(e.odometer_km) - min(e.odometer_km) AS km
FROM telemetry_enriched e
LEFT JOIN companies c ON c.company_id = e.company_id
WHERE e.vehicle_id IS NOT NULL AND e.odometer_km IS NOT NULL
GROUP BY 1, 2, 3;
