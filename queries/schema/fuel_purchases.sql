-- What was paid for with fuel cards, as the petrol stations report it: often hours later.
CREATE SOURCE fuel_purchases (
    purchase_id TEXT NOT NULL,
    card_id     TEXT NOT NULL,
    paid_at     TIMESTAMP NOT NULL,
    litres      DOUBLE,
    total_eur   DECIMAL(10, 2) NOT NULL,
    station     TEXT
)
FROM LOG 'fuel.purchases' FORMAT JSON
KEY (purchase_id)
EVENT TIME paid_at;
