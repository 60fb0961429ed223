-- When a vehicle was in use: messages with the ignition on that follow each other within half an hour.
CREATE MATERIALIZED VIEW duty_sessions
WITH (key = 'vehicle_id, started_at',
      retention = '12 hours',
      access = 'company_id')
AS
SELECT company_id, vehicle_id, session(ts, interval '30 minutes') AS started_at, max(ts) AS ended_at,
       count(*) AS fixes, max(speed_kmh) AS top_speed_kmh
FROM telemetry_enriched
WHERE vehicle_id IS NOT NULL AND ignition
GROUP BY company_id, vehicle_id, session(ts, interval '30 minutes');
