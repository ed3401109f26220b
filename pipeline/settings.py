"""Settings of every process, from the environment (``KAFKA_*`` and ``HEADRACE_*``)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipeline.stream.kafka import Kafka

__all__ = ["KafkaSettings", "Settings"]


class KafkaSettings(BaseSettings):
    """An existing cluster. Without ``KAFKA_BOOTSTRAP_SERVERS``, the embedded broker is started."""

    model_config = SettingsConfigDict(env_prefix="KAFKA_", extra="ignore")

    bootstrap_servers: str | None = None
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None

    def kafka(self, bootstrap_servers: str | None = None) -> Kafka:
        """The cluster these settings name. Raises ValueError when none is named."""
        address = bootstrap_servers or self.bootstrap_servers
        if not address:
            raise ValueError("no Kafka named: set KAFKA_BOOTSTRAP_SERVERS, or use `headrace up`")
        return Kafka(
            bootstrap_servers=address,
            security_protocol=self.security_protocol,
            sasl_mechanism=self.sasl_mechanism,
            sasl_username=self.sasl_username,
            sasl_password=self.sasl_password.get_secret_value() if self.sasl_password else None,
            ssl_cafile=self.ssl_cafile,
            ssl_certfile=self.ssl_certfile,
            ssl_keyfile=self.ssl_keyfile,
        )


class Settings(BaseSettings):
    """Everything else. Paths are made when needed; ports of 0 mean a free one."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_", extra="ignore")

    data_dir: Path = Field(
        Path(".headrace"),
        description="stores, who waits for a retry, the embedded broker's log, the local secret key",
    )
    lake: str | None = Field(
        None, description="events as Parquet: a folder, or s3://bucket/prefix; `lake` in the data folder when unset"
    )
    postgres: SecretStr | None = Field(
        None, description="postgresql://user:password@host/database that the tables are kept in, too"
    )
    lanes: int = Field(8, ge=1, le=1024, description="partitions of every data topic (decision 3)")
    replication: int = Field(1, ge=1, le=10)
    host: str = "127.0.0.1"
    gateway_port: int = Field(8080, ge=0, le=65535)
    public_url: str | None = Field(
        None, pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$", description="the gateway's address as the world knows it"
    )
    trusted_proxies: str = Field(
        "127.0.0.1,::1", description="addresses and CIDRs of proxies whose X-Forwarded-For is believed; * for any"
    )
    api_port: int = Field(8081, ge=0, le=65535)
    api_token: SecretStr | None = Field(None, description="bearer token of the admin API; needed off loopback")
    secret_key: SecretStr | None = Field(None, description="32 bytes, base64: encrypts the `secrets` topic")
    watermark_ms: int = Field(200, ge=10, le=60_000)
    worker_port: int | None = Field(None, ge=0, le=65535, description="the worker's /livez, /readyz; unset: no door")
    instance: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9._-]{1,100}$",
        description="a worker's name over restarts: none rebalances then",
    )
    standbys: int = Field(1, ge=0, le=10, description="copies of each lane's state on other workers, for a fail-over")
    intake_guarantee: Literal["exactly_once", "at_least_once"] = Field(
        "exactly_once", description="intake at least once: counts stay exact, a crash may tell a rejection twice"
    )
    join_days: int = Field(
        60, ge=0, le=3650, description="so much of what a visitor did before it signed in becomes the customer's"
    )
    geoip: Path | None = Field(
        None, description="a database in MaxMind's format: intake tells the country of an event's address by it"
    )
    session_seconds: float = Field(10.0, ge=6, le=300, description="silence after which a worker is taken for dead")
    stall_seconds: float = Field(300.0, ge=5, description="a worker whose input waits so long unmoved ends itself")
    drain_seconds: float = Field(10.0, ge=1, le=120, description="what a stopping worker gives a transaction at hand")
    allow_networks: str = Field(
        "", description="CIDRs that sinks and feeds may reach though they are private, comma-separated"
    )
    allow_folders: str = Field(
        "", description="folders of this machine that sources may watch and sinks may write, comma-separated"
    )
    retry_schedule: str = Field(
        "5s,5m,30m,2h,5h,10h,10h", description="delays between attempts of a delivery, +-20 % jitter"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
