-- Fences of companies. A circle is a POINT with a radius, a corridor a LINESTRING with half its width, a polygon a POLYGON:
-- longitude before latitude, in degrees. A fence that is removed comes as a null value.
CREATE TABLE geofences (
    fence_id   TEXT NOT NULL,
    company_id TEXT,
    name       TEXT,
    kind       TEXT,
    shape      TEXT,
    radius_m   DOUBLE
)
FROM LOG 'geofence.updated' FORMAT JSON
KEY (fence_id)
ACCESS company_id;
