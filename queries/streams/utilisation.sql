-- Which share of a company's vehicles moved, per hour of device time.
CREATE MATERIALIZED VIEW utilisation
WITH (key = 'company_id, hour',
      retention = '7 days',
      sinks = 'clickhouse, edge',
      access = 'company_id')
AS
SELECT m.company_id, m.hour, m.moved, v.vehicles,
       CAST(m.moved AS double) / v.vehicles AS share
FROM (
    SELECT company_id, date_bin(interval '1 hour', ts) AS hour, count(DISTINCT vehicle_id) AS moved
    FROM telemetry_enriched
    WHERE speed_kmh > 5 AND vehicle_id IS NOT NULL
    GROUP BY 1, 2
) m
JOIN (SELECT company_id, count(*) AS vehicles FROM vehicles GROUP BY company_id) v ON v.company_id = m.company_id;
