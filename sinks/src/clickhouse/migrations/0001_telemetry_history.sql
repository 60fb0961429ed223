-- Every accepted message with the references as they stood when it arrived. The place in the log is part of the key, so
-- a replay replaces rows. Read with FINAL where a row that is just being replaced must not count twice.
CREATE TABLE IF NOT EXISTS telemetry_history
(
    device_id      String                               CODEC(ZSTD(1)),
    ts             DateTime64(3, 'UTC')                 COMMENT 'device time' CODEC(Delta, ZSTD(1)),
    topic          LowCardinality(String)               CODEC(ZSTD(1)),
    partition      Int32                                CODEC(ZSTD(1)),
    offset         Int64                                CODEC(Delta, ZSTD(1)),
    tick           UInt64                               COMMENT 'arrival, ms since 1970, rounded up' CODEC(Delta, ZSTD(1)),
    server_time    Nullable(DateTime64(3, 'UTC'))       CODEC(Delta, ZSTD(1)),
    seq            Int64                                CODEC(Delta, ZSTD(1)),
    lat            Nullable(Float64)                    CODEC(FPC, ZSTD(1)),
    lon            Nullable(Float64)                    CODEC(FPC, ZSTD(1)),
    altitude_m     Nullable(Float64)                    CODEC(ZSTD(1)),
    speed_kmh      Nullable(Float64)                    CODEC(ZSTD(1)),
    heading_deg    Nullable(Float64)                    CODEC(ZSTD(1)),
    satellites     Nullable(Int32)                      CODEC(ZSTD(1)),
    hdop           Nullable(Float64)                    CODEC(ZSTD(1)),
    ignition       Nullable(Bool)                       CODEC(ZSTD(1)),
    fuel_level_pct Nullable(Float64)                    CODEC(ZSTD(1)),
    engine_temp_c  Nullable(Float64)                    CODEC(ZSTD(1)),
    odometer_km    Nullable(Float64)                    CODEC(FPC, ZSTD(1)),
    battery_v      Nullable(Float64)                    CODEC(ZSTD(1)),
    events         Nullable(String)                     COMMENT 'JSON array' CODEC(ZSTD(1)),
    attributes     Nullable(String)                     COMMENT 'JSON object' CODEC(ZSTD(1)),
    vehicle_id     Nullable(String)                     CODEC(ZSTD(1)),
    plate          Nullable(String)                     CODEC(ZSTD(1)),
    model          LowCardinality(Nullable(String))     CODEC(ZSTD(1)),
    company_id     LowCardinality(Nullable(String))     CODEC(ZSTD(1)),
    company_name   LowCardinality(Nullable(String))     CODEC(ZSTD(1)),
    tariff_id      LowCardinality(Nullable(String))     CODEC(ZSTD(1)),
    driver_id      Nullable(String)                     CODEC(ZSTD(1)),
    driver_name    Nullable(String)                     CODEC(ZSTD(1)),
    driver_phone   Nullable(String)                     CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(ts)
PRIMARY KEY (device_id, ts)
ORDER BY (device_id, ts, topic, partition, offset)
SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1, fsync_part_directory = 1
