-- What each vehicle was fuelled with, by day: the vehicle that the card belonged to when it was used.
CREATE MATERIALIZED VIEW fuel_spend
WITH (key = 'company_id, vehicle_id, day',
      retention = '30 days', as_of = 'event time', horizon = '7 days',
      sinks = 'kafka, edge',
      access = 'company_id')
AS
SELECT v.company_id, c.vehicle_id, date_trunc('day', p.paid_at) AS day,
       count(*) AS purchases, sum(p.litres) AS litres, sum(p.total_eur) AS total_eur
FROM fuel_purchases p
JOIN fuel_cards c ON c.card_id = p.card_id
LEFT JOIN vehicles v ON v.vehicle_id = c.vehicle_id
GROUP BY 1, 2, 3;
