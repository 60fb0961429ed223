-- What happened to a device: it was heard of again, it fell silent. One row for each kind, device and tick.
CREATE TABLE IF NOT EXISTS vehicle_events
(
    kind       LowCardinality(String)           COMMENT 'device.online, device.offline' CODEC(ZSTD(1)),
    device_id  String                           CODEC(ZSTD(1)),
    tick       UInt64                           COMMENT 'ms since 1970' CODEC(Delta, ZSTD(1)),
    since      Nullable(DateTime64(3, 'UTC'))   CODEC(Delta, ZSTD(1)),
    vehicle_id Nullable(String)                 CODEC(ZSTD(1)),
    company_id LowCardinality(Nullable(String)) CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(fromUnixTimestamp64Milli(toInt64(tick), 'UTC'))
ORDER BY (kind, device_id, tick)
SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1, fsync_part_directory = 1
