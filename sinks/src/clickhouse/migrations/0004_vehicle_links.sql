-- Vehicle, driver, company and tariff as they belong together now. Read with FINAL, which leaves deleted rows out.
-- `version` is twice the tick, and one more for an upsert.
CREATE TABLE IF NOT EXISTS vehicle_links
(
    vehicle_id      String                           CODEC(ZSTD(1)),
    device_id       Nullable(String)                 CODEC(ZSTD(1)),
    plate           Nullable(String)                 CODEC(ZSTD(1)),
    model           LowCardinality(Nullable(String)) CODEC(ZSTD(1)),
    group_ids       Nullable(String)                 COMMENT 'JSON array' CODEC(ZSTD(1)),
    company_id      LowCardinality(Nullable(String)) CODEC(ZSTD(1)),
    company_name    LowCardinality(Nullable(String)) CODEC(ZSTD(1)),
    time_zone       LowCardinality(Nullable(String)) CODEC(ZSTD(1)),
    offline_after_s Nullable(Int64)                  CODEC(ZSTD(1)),
    tariff_id       LowCardinality(Nullable(String)) CODEC(ZSTD(1)),
    tariff_name     LowCardinality(Nullable(String)) CODEC(ZSTD(1)),
    driver_id       Nullable(String)                 CODEC(ZSTD(1)),
    driver_name     Nullable(String)                 CODEC(ZSTD(1)),
    driver_phone    Nullable(String)                 CODEC(ZSTD(1)),
    version         UInt64                           CODEC(Delta, ZSTD(1)),
    is_deleted      UInt8                            CODEC(ZSTD(1)),
    tick            UInt64                           ALIAS intDiv(version, 2)
)
ENGINE = ReplacingMergeTree(version, is_deleted)
ORDER BY vehicle_id
SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1, fsync_part_directory = 1
