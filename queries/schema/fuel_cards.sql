-- Fuel cards and the vehicle that each belongs to. A card that is blocked comes as a null value.
CREATE TABLE fuel_cards (
    card_id    TEXT NOT NULL,
    vehicle_id TEXT NOT NULL,
    limit_eur  DECIMAL(8, 2)
)
FROM LOG 'fuel.cards' FORMAT JSON
KEY (card_id);
