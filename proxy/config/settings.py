"""The configuration as typed, frozen settings; every default and unit is written here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TlsSettings(_Settings):
    """PEM files. `client_ca` turns on mutual TLS."""

    certificate: str
    key: str
    client_ca: str = ""


class ListenSettings(_Settings):
    """Where the proxy answers. Port 0 picks a free one (printed at start)."""

    address: str = "127.0.0.1:50051"
    metrics: str = "127.0.0.1:9464"
    tls: TlsSettings | None = None


class LanceSettings(_Settings):
    """How LanceDB tables are written and kept small.

    Writes are gathered: a commit follows `flush_rows` waiting rows, or `flush_ms` after the
    first. `optimize` runs after so many commits or rows, whichever comes first, and after more
    where it takes long and writes keep coming (they wait meanwhile). Versions older than
    `keep_versions_s` are removed then; `deadline_s` of any read must be shorter. With `sync` what
    a write left in a local folder is on the disk before it is acknowledged.
    """

    flush_rows: int = Field(default=1000, ge=1, le=100_000)
    flush_ms: float = Field(default=2.0, ge=0.0, le=1000.0)
    queue_rows_max: int = Field(default=20_000, ge=1)
    optimize_commits: int = Field(default=60, ge=1)
    optimize_rows: int = Field(default=20_000, ge=1)
    keep_versions_s: float = Field(default=600.0, ge=60.0)
    sync: bool = True
    storage_options: Mapping[str, str] = Field(default_factory=dict, repr=False)


class StoreSettings(_Settings):
    """One store. `engine` chooses the adapter.

    `dsn` (postgresql) is a libpq connection string or URI; `uri` (lancedb) a folder or an object
    store's URI, and `namespace` a folder below it, "" for the root.
    """

    engine: Literal["postgresql", "lancedb", "memory"]
    dsn: str = Field(default="", repr=False)
    pool_size_min: int = Field(default=2, ge=1, le=100)
    pool_size_max: int = Field(default=8, ge=1, le=200)
    uri: str = ""
    namespace: str = Field(default="", pattern=r"^([A-Za-z0-9][A-Za-z0-9_-]*)?$")
    lance: LanceSettings = LanceSettings()


class EmbedderSettings(_Settings):
    """Who makes vectors from texts: sentence-transformers in a process of its own.

    `batch_texts_max` and `batch_wait_ms` shape the micro-batches, `queue_texts_max` bounds what
    may wait (RESOURCE_EXHAUSTED past it), `query_cache` the query embeddings kept. `threads` 0:
    as many as there are CPUs. `backend` onnx needs sentence-transformers[onnx].
    """

    backend: Literal["torch", "onnx"] = "torch"
    threads: int = Field(default=0, ge=0, le=256)
    batch_texts_max: int = Field(default=64, ge=1, le=1024)
    batch_wait_ms: float = Field(default=2.0, ge=0.0, le=100.0)
    queue_texts_max: int = Field(default=4096, ge=1)
    query_cache: int = Field(default=1024, ge=0, le=1_000_000)
    deadline_s: float = Field(default=30.0, gt=0, le=600)
    start_timeout_s: float = Field(default=120.0, gt=0, le=3600)


class LedgerSettings(_Settings):
    """The ledger's own PostgreSQL database (tables in schema `crossfade`)."""

    engine: Literal["postgresql", "memory"] = "postgresql"
    dsn: str = Field(default="", repr=False)
    pool_size_max: int = Field(default=4, ge=2, le=50)
    lease_s: float = Field(default=10.0, ge=1.0, le=300.0)
    flush_rows_max: int = Field(default=500, ge=1, le=10_000)
    settle_delay_ms: float = Field(default=20.0, ge=0.0, le=1000.0)


LATE_WRITE_S: Final = 5.0
"""A write that was given up cannot land in a store later than this: its server notices by then.

A store without a server is waited for before it is read (`Store.landed`).
"""


class WriteSettings(_Settings):
    """The dual write (design section 3).

    `late_write_s`: how long a write that was given up without an answer may still land in a
    store. Until then its key stays unsettled, so that no repair can come before it.
    """

    ack: Literal["both", "primary"] = "both"
    ledger_down: Literal["refuse", "primary_alone"] = "refuse"
    primary_deadline_s: float = Field(default=5.0, gt=0, le=60)
    secondary_deadline_s: float = Field(default=2.0, gt=0, le=60)
    late_write_s: float = Field(default=LATE_WRITE_S, ge=0, le=60)
    hold_max_s: float = Field(default=5.0, gt=0, le=60)
    in_flight_max: int = Field(default=1000, ge=1, le=100_000)
    breaker_failures: int = Field(default=5, ge=1, le=1000)
    breaker_open_s: float = Field(default=5.0, gt=0, le=300)
    one_sided_records: Literal["refuse", "new_alone"] = "refuse"


class ReadSettings(_Settings):
    """Reads (design section 6).

    `lease_lost`: what a replica does with reads once its lease is over for `lease_grace_s`: it
    cannot know the routing in force any more, so what it would serve may be stale.
    """

    deadline_s: float = Field(default=10.0, gt=0, le=300)
    fallback: bool = True
    dirty_keys_max: int = Field(default=1000, ge=0)
    lease_lost: Literal["serve", "refuse"] = "refuse"
    lease_grace_s: float = Field(default=5.0, ge=0, le=3600)


class ShadowSettings(_Settings):
    """Shadow reads (design section 8) and the gate before the ramp."""

    sample: float = Field(default=1.0, ge=0.0, le=1.0)
    queue_max: int = Field(default=256, ge=1, le=100_000)
    workers: int = Field(default=2, ge=1, le=32)
    deadline_s: float = Field(default=10.0, gt=0, le=300)
    noise_sample: float = Field(default=0.05, ge=0.0, le=1.0)
    score_epsilon: float = Field(default=1e-5, ge=0.0)
    gate_queries_min: int = Field(default=100, ge=0)
    gate_overlap_min: float = Field(default=0.99, ge=0.0, le=1.0)
    gate_known_overlap_min: float = Field(default=0.1, ge=0.0, le=1.0)
    gate_errors_max: int = Field(default=0, ge=0)
    gate_latency_ratio_max: float = Field(default=1.1, gt=0)
    gate_latency_slack_ms: float = Field(default=2.0, ge=0.0)


class ReconcileSettings(_Settings):
    """Backfill, verify, repair (design sections 4 and 5).

    `in_proxy`: `crossfade serve` runs the reconciler too; auto: if a store has a single writer.
    """

    batch_rows: int = Field(default=1000, ge=1, le=100_000)
    batch_bytes_max: int = Field(default=32 * 2**20, ge=2**16)
    range_rows: int = Field(default=20_000, ge=1)
    workers: int = Field(default=2, ge=1, le=32)
    rows_per_s_max: float = Field(default=0.0, ge=0.0)
    bytes_per_s_max: float = Field(default=0.0, ge=0.0)
    primary_latency_ms_max: float = Field(default=0.0, ge=0.0)
    lease_s: float = Field(default=15.0, ge=1.0, le=600.0)
    deadline_s: float = Field(default=120.0, gt=0)
    differences_max: int = Field(default=10_000, ge=1)
    in_proxy: Literal["auto", "always", "never"] = "auto"


class LimitSettings(_Settings):
    """What a request may be at most."""

    message_bytes_max: int = Field(default=16 * 2**20, ge=2**16)
    key_bytes_max: int = Field(default=1024, ge=16, le=2000)
    batch_items_max: int = Field(default=1000, ge=1)
    search_limit_max: int = Field(default=1000, ge=1)
    list_limit_max: int = Field(default=1000, ge=1)
    offset_max: int = Field(default=10_000, ge=0)
    filter_depth_max: int = Field(default=16, ge=1)
    filter_nodes_max: int = Field(default=256, ge=1)


class SwitchSettings(_Settings):
    """Phase steps and the swap of the primary (design section 7)."""

    drain_timeout_s: float = Field(default=2.0, gt=0, le=60)
    ack_timeout_s: float = Field(default=15.0, gt=0, le=300)
    dirty_max: int = Field(default=0, ge=0)


class TelemetrySettings(_Settings):
    """OpenTelemetry. `otlp_endpoint` "" exports no traces."""

    otlp_endpoint: str = ""
    service_name: str = "crossfade"
    trace_sample: float = Field(default=1.0, ge=0.0, le=1.0)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = "json"


class FlagSettings(_Settings):
    """The traffic flag. `provider`: "" for the built-in one, else "module:factory"."""

    provider: str = ""
    flag_key: str = "crossfade.read_new"


class Settings(_Settings):
    """A whole configuration. `collections` is left as read: `proxy.config.schema` compiles it."""

    version: Literal[1] = 1
    migration: str = Field(min_length=1, max_length=63, pattern=r"^[a-z0-9][a-z0-9_-]*$")
    preset: str = ""
    listen: ListenSettings = ListenSettings()
    old: StoreSettings
    new: StoreSettings
    ledger: LedgerSettings
    writes: WriteSettings = WriteSettings()
    reads: ReadSettings = ReadSettings()
    shadow: ShadowSettings = ShadowSettings()
    reconcile: ReconcileSettings = ReconcileSettings()
    limits: LimitSettings = LimitSettings()
    embedder: EmbedderSettings = EmbedderSettings()
    switch: SwitchSettings = SwitchSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    flags: FlagSettings = FlagSettings()
    collections: Mapping[str, object] = Field(default_factory=dict)
