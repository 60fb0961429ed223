-- Each vehicle with its company, that company's tariff, and its driver, as they stand.
CREATE MATERIALIZED VIEW vehicle_links
WITH (key = 'vehicle_id',
      access = 'company_id')
AS
SELECT v.vehicle_id, v.device_id, v.plate, v.model, v.group_ids,
       v.company_id, c.name AS company_name, c.time_zone, c.offline_after_s,
       c.tariff_id, t.name AS tariff_name,
       v.driver_id, d.name AS driver_name, d.phone AS driver_phone
FROM vehicles v
LEFT JOIN companies c ON c.company_id = v.company_id
LEFT JOIN tariffs t ON t.tariff_id = c.tariff_id
LEFT JOIN drivers d ON d.driver_id = v.driver_id;
