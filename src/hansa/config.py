"""Settings: one class, every field documented; from the environment (`HANSA_…`) and the command line."""

from __future__ import annotations

import ipaddress
import os
from functools import cached_property
from pathlib import Path

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from hansa.kinds.quotas import REQUESTS, SHIPPED, Quotas


class Settings(BaseSettings):
    """Everything that an operator may set. `HANSA_CPU_OVERCOMMIT=4` sets `cpu_overcommit`."""

    model_config = SettingsConfigDict(env_prefix="HANSA_", extra="ignore")

    data: Path = Field(Path("hansa-data"), description="folder that holds all state of this cloud")
    database: SecretStr = Field(
        SecretStr(""),
        description="`postgresql://user@host/name`, or the path of an SQLite file; empty: `hansa.db` in the data folder",
    )
    role: str = Field(
        "all", pattern="^(all|api|control|s3)$", description="what this process does; `hansa serve --role` sets it"
    )
    take_hosts: bool = Field(False, description="take the hosts over from a data folder that is gone for good")
    port: int = Field(8080, ge=0, le=65535, description="port of the API; 0 takes a free one")
    listen: str = Field(
        "", description="ADDR[:PORT] of the API; elsewhere than on loopback it speaks TLS; empty: 127.0.0.1"
    )
    url: str = Field("", description="URL under which clients reach the API, when it is not the one it listens on")
    tls_cert: Path | None = Field(
        None, description="certificate chain of the API (PEM); without it one of the data folder's own authority"
    )
    tls_key: Path | None = Field(None, description="private key of the certificate (PEM)")
    tls_ca: Path | None = Field(None, description="authority of that certificate (PEM), when clients do not know it")
    connections: int = Field(1000, ge=10, le=100_000, description="connections to the API at a time")
    connections_each: int = Field(
        256, ge=1, le=100_000, description="connections at a time of one IPv4 address, or one IPv6 /64"
    )
    s3_port: int | None = Field(
        None, ge=0, le=65535, description="port of S3 on loopback, without TLS; without it a free one, kept in `DIR/s3`"
    )
    s3_tls_port: int | None = Field(
        None, ge=0, le=65535, description="port of S3 with TLS, at the API's address; without it a free one, kept too"
    )
    s3_url: str = Field("", description="URL under which clients reach S3, when it is not the one it listens on")
    api_at: str = Field(
        "", description="`http://ADDR:PORT` (or https) at which gateways reach the API, when its URL leads elsewhere"
    )
    s3_domains: str = Field(
        "s3.localhost",
        description="domains under which a bucket is a host name (`BUCKET.s3.localhost`), comma separated",
    )
    s3_processes: int = Field(
        1, ge=1, le=64,
        description="processes that serve S3: `hansa up` starts them, on the same ports; each has its share of what may "
        "be asked a second. Where `hansa serve --role s3` is started by itself, how many there are of it in all",
    )  # fmt: skip
    s3_connections: int = Field(
        2000, ge=10, le=100_000, description="connections to one process of S3 at a time; half of them of one address"
    )
    s3_request_rate: int = Field(
        10_000, ge=1, le=1_000_000,
        description="requests of S3 a second of an organisation that has no limit of its own: then SlowDown",
    )  # fmt: skip
    s3_acl: str = Field(
        "closed", pattern="^(closed|open)$",
        description="`open`: new buckets take ACLs and are not kept from the public, as suites of S3's early days want",
    )  # fmt: skip
    s3_lifecycle_day_s: float = Field(
        86_400.0, gt=0, le=86_400, description="length of a day in lifecycle rules, seconds: shorter for tests"
    )
    s3_store: str = Field(
        "",
        description="where the bytes of objects lie: empty: `DIR/s3/blobs`; else `https://ENDPOINT/BUCKET[/PREFIX]` of S3",
    )
    s3_regions: str = Field(
        "",
        description="regions in which that store lies, comma separated: buckets can be made there and nowhere else; "
        "empty: `HANSA_REGION`; `*`: all, to try things out on one machine",
    )
    s3_store_region: str = Field("us-east-1", description="region of that store")
    s3_store_access_key: SecretStr = Field(SecretStr(""), description="access key of that store")
    s3_store_secret_key: SecretStr = Field(SecretStr(""), description="secret key of that store")
    metrics: str = Field("loopback", pattern="^(loopback|everywhere|off)$", description="who may read `/metrics`")
    fleet: Path | None = Field(None, description="fleet file; without it the one that is shipped")
    region: str = Field("se-sto", description="default region; its zone `a` is this machine")
    project: str = Field("demo", description="project made at the first start")
    cpu_overcommit: float = Field(
        8.0, gt=0, le=64, description="virtual CPUs promised for each real one, on this machine"
    )
    memory_overcommit: float = Field(
        2.0, gt=0, le=16, description="memory promised for each real byte, on this machine"
    )
    disk_overcommit: float = Field(
        50.0, gt=0, le=1000, description="disk promised for each real byte of a zone's hosts, simulated ones too"
    )
    guests_weight: int = Field(
        100, ge=1, le=10_000,
        description="processor share of all guests together when this machine is busy: 100 is what any other group of "
        "processes has, 50 half of that; where control groups are, from the next start of a guest on",
    )  # fmt: skip
    network: str = Field(
        "", pattern="^(|namespaces|user-namespaces|userspace)$",
        description="forces a way of making networks instead of the probe's answer",
    )  # fmt: skip
    uplink: str = Field("", pattern="^(|none)$", description="`none`: guests have no way out; empty: what the host can")
    uplink_allowed: str = Field(
        "", description="private networks outside that guests may reach by the way out, comma separated CIDRs"
    )
    public_ranges: str = Field(
        "203.0.113.0/24,198.51.100.0/24,192.0.2.0/24",
        description="ranges of public addresses, comma separated CIDRs; as shipped for documentation (RFC 5737)",
    )
    stand_ins: bool = Field(True, description="published images may be stood in for by ours; off: ImageUnavailable")
    access_token_s: int = Field(900, ge=60, le=3600, description="life of a user's access token, seconds")
    audiences: str = Field("", description="more accepted `aud` values of service account assertions, comma separated")
    seal_key_file: Path | None = Field(
        None, description="file of the keys that seal secrets, base64, one a line, the newest last; else DIR/keys"
    )
    seal_key: SecretStr = Field(
        SecretStr(""), description="the same keys themselves, comma separated; goes before the file"
    )
    loop_tasks: int = Field(16, ge=1, le=256, description="objects reconciled at the same time")
    quotas: Quotas = Field(
        SHIPPED,
        description="what every organisation may hold that has no limit of its own, as JSON of the form of "
        "`spec.quotas`; a quantity that is not named has no limit then",
    )
    accelerator: str = Field(
        "", pattern="^(|tcg|kvm)$", description="forces an accelerator instead of the probe's answer"
    )
    image_cache: Path | None = Field(None, description="folder of built images, shared by every data folder")

    @property
    def store_at(self) -> str:
        """Where the store is, password and all: never to be shown."""
        return self.database.get_secret_value() or str(self.data / "hansa.db")

    @cached_property
    def quota_limits(self) -> dict[str, int]:
        """`quotas` by quantity, and the pace of S3, which is never without limit."""
        return {REQUESTS: self.s3_request_rate, **self.quotas.limits()}

    @property
    def s3_stored_regions(self) -> tuple[str, ...]:
        """The regions whose objects the store may hold; `*` stands for all."""
        return tuple(filter(None, (word.strip() for word in self.s3_regions.split(",")))) or (self.region,)

    def s3_stores_in(self, region: str) -> bool:
        return region in self.s3_stored_regions or "*" in self.s3_stored_regions

    @field_validator("uplink_allowed", "public_ranges")
    @classmethod
    def _networks(cls, text: str) -> str:
        for word in filter(None, (w.strip() for w in text.split(","))):
            ipaddress.ip_network(word)
        return text


def run_folder(cloud_id: str) -> Path:
    """A short folder outside DIR for sockets: a unix socket's path holds 107 bytes."""
    user = os.geteuid()
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if user == 0:
        return Path("/run/hansa") / cloud_id
    if runtime and len(runtime) < 40 and os.access(runtime, os.W_OK):
        return Path(runtime) / "hansa" / cloud_id
    return Path(f"/tmp/hansa-{user}") / cloud_id  # noqa: S108 - made with mode 0700, checked by its owner
