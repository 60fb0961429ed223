-- When vehicles enter the fences of their companies, have been in them for ten minutes, and leave.
CREATE MATERIALIZED VIEW geofence_visits
WITH (key = 'vehicle_id, fence_id, kind, ts, seq',
      retention = '1 day',
      sinks = 'kafka, edge',
      access = 'company_id')
AS
SELECT * FROM geofence_events(dwell => interval '10 minutes', margin_m => 25, late => interval '1 hour');
