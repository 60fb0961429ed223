-- How many of a company's vehicles are not heard of.
CREATE MATERIALIZED VIEW offline_share
WITH (key = 'company_id',
      sinks = 'edge',
      access = 'company_id')
AS
SELECT v.company_id, count(*) AS vehicles,
       count(*) FILTER (WHERE NOT c.online) AS offline,
       CAST(count(*) FILTER (WHERE NOT c.online) AS double) / count(*) AS share
FROM vehicles v
LEFT JOIN connectivity c ON c.device_id = v.device_id
WHERE v.company_id IS NOT NULL
GROUP BY v.company_id;
