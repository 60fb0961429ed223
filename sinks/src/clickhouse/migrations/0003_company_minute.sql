-- Messages and speeds of a company in a minute of device time; late messages correct the row. Read with FINAL, which
-- leaves deleted rows out. `version` is twice the tick, and one more for an upsert: of one tick upserts stand over deletes.
CREATE TABLE IF NOT EXISTS company_minute
(
    company_id        String               CODEC(ZSTD(1)),
    window_start      DateTime64(3, 'UTC') COMMENT 'device time' CODEC(Delta, ZSTD(1)),
    fixes             Nullable(Int64)      CODEC(ZSTD(1)),
    average_speed_kmh Nullable(Float64)    CODEC(ZSTD(1)),
    top_speed_kmh     Nullable(Float64)    CODEC(ZSTD(1)),
    version           UInt64               CODEC(Delta, ZSTD(1)),
    is_deleted        UInt8                CODEC(ZSTD(1)),
    tick              UInt64               ALIAS intDiv(version, 2)
)
ENGINE = ReplacingMergeTree(version, is_deleted)
PARTITION BY toYYYYMM(window_start)
ORDER BY (company_id, window_start)
SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1, fsync_part_directory = 1
