"""All configuration, read once and checked: the only module that looks at the environment.

A wrong value is a ``SettingsError`` that names its variable and never repeats a secret. Defaults are those of the
embedded mode; with ``DATABASE_URL`` nothing is made up.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, PlainValidator, PrivateAttr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from authz.issuers import ApiKey, Issuer, parse_api_keys, parse_issuers
from db.pool import Dsn

DATABASE: Final = "countersign"
SUPERUSER: Final = "countersign"  # of the embedded cluster
SOCKET_FILE: Final = "postgres-socket"  # in the home: where the running cluster's socket is
Role = Literal["cs_app", "cs_worker", "cs_sealer", "cs_audit_reader", "cs_eraser", "cs_owner"]
_SCHEMES: Final = ("postgres", "postgresql")
_PREFIX: Final = "COUNTERSIGN_"
_OTEL: Final = "OTEL_"
Exporter = Literal["otlp", "console"]
Signal = Literal["traces", "metrics", "logs"]
_Made = TypeVar("_Made")


class SettingsError(Exception):
    """A setting is wrong; the message names the variable and says what it should be."""


def _issuers(value: object) -> tuple[Issuer, ...]:
    return parse_issuers(value) if isinstance(value, str) else tuple(value)  # type: ignore[arg-type]  # given by code, not by the environment


def _api_keys(value: object) -> tuple[ApiKey, ...]:
    return parse_api_keys(value, datetime.now(UTC)) if isinstance(value, str) else tuple(value)  # type: ignore[arg-type]  # as above


def _exporters(value: object) -> tuple[Exporter, ...] | None:
    if value is None:
        return None
    names = [name.strip() for name in str(value).split(",") if name.strip()]
    if any(name not in ("otlp", "console", "none") for name in names) or ("none" in names and len(names) > 1):
        raise ValueError("should be otlp, console, both with a comma, or none")
    return tuple(name for name in dict.fromkeys(names) if name != "none")  # type: ignore[misc]  # looked at above


_Exporters = Annotated[tuple[Exporter, ...] | None, NoDecode, PlainValidator(_exporters)]


class Telemetry(BaseSettings):
    """The standard ``OTEL_*``: what is told, checked here, and where to, checked here and read again by the SDK's exporters."""

    model_config = SettingsConfigDict(
        env_prefix=_OTEL, frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True
    )

    sdk_disabled: bool = False
    service_name: str = "countersign"
    traces_exporter: _Exporters = None  # None: otlp where an endpoint is named, else nothing
    metrics_exporter: _Exporters = None
    logs_exporter: _Exporters = None  # None: otlp where an endpoint of its own is named; the lines on stderr stay
    exporter_otlp_endpoint: str | None = None
    exporter_otlp_traces_endpoint: str | None = None
    exporter_otlp_metrics_endpoint: str | None = None
    exporter_otlp_logs_endpoint: str | None = None
    exporter_otlp_protocol: str = "http/protobuf"
    exporter_otlp_traces_protocol: str = "http/protobuf"
    exporter_otlp_metrics_protocol: str = "http/protobuf"
    exporter_otlp_logs_protocol: str = "http/protobuf"
    exporter_otlp_headers: str | None = Field(default=None, repr=False)
    exporter_otlp_timeout: float = Field(default=10, gt=0)
    exporter_otlp_compression: Literal["none", "gzip", "deflate"] = "none"
    exporter_otlp_certificate: Path | None = None
    exporter_otlp_client_certificate: Path | None = None
    exporter_otlp_client_key: Path | None = None
    traces_sampler: Literal[
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ] = "parentbased_always_on"
    traces_sampler_arg: float = Field(default=1, ge=0, le=1)
    bsp_max_queue_size: int = Field(default=2048, ge=1, le=65_536)
    bsp_max_export_batch_size: int = Field(default=512, ge=1, le=65_536)
    bsp_schedule_delay: int = Field(default=5000, ge=10)
    blrp_max_queue_size: int = Field(default=2048, ge=1, le=65_536)
    blrp_max_export_batch_size: int = Field(default=512, ge=1, le=65_536)
    blrp_schedule_delay: int = Field(default=1000, ge=10)
    metric_export_interval: int = Field(default=60_000, ge=100)
    metric_export_timeout: int = Field(default=30_000, ge=100)
    resource_attributes: str | None = None

    @field_validator(
        "exporter_otlp_endpoint",
        "exporter_otlp_traces_endpoint",
        "exporter_otlp_metrics_endpoint",
        "exporter_otlp_logs_endpoint",
    )
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                parts = urlsplit(value)
                usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            except ValueError:
                usable = False
            if not usable:
                raise ValueError("should be the http(s) URL of a collector, such as http://127.0.0.1:4318")
        return value

    @field_validator(
        "exporter_otlp_protocol",
        "exporter_otlp_traces_protocol",
        "exporter_otlp_metrics_protocol",
        "exporter_otlp_logs_protocol",
    )
    @classmethod
    def _protobuf(cls, value: str) -> str:
        if value != "http/protobuf":
            raise ValueError("should be http/protobuf, the one that is spoken here (a collector's port 4318)")
        return value

    @field_validator("exporter_otlp_certificate", "exporter_otlp_client_certificate", "exporter_otlp_client_key")
    @classmethod
    def _exists(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError(f"{value} does not exist")
        return value

    @property
    def traces(self) -> tuple[Exporter, ...]:
        """Where spans go; nowhere while all is off."""
        return self._chosen(self.traces_exporter, self.exporter_otlp_traces_endpoint or self.exporter_otlp_endpoint)

    @property
    def metrics(self) -> tuple[Exporter, ...]:
        return self._chosen(self.metrics_exporter, self.exporter_otlp_metrics_endpoint or self.exporter_otlp_endpoint)

    @property
    def logs(self) -> tuple[Exporter, ...]:
        return self._chosen(self.logs_exporter, self.exporter_otlp_logs_endpoint)

    @property
    def on(self) -> bool:
        """Whether anything is told. If not, no SDK is loaded and no thread started."""
        return bool(self.traces or self.metrics or self.logs)

    def endpoint(self, signal: Signal) -> str:
        """The URL that a signal goes to, as the exporters see it."""
        own: str | None = getattr(self, f"exporter_otlp_{signal}_endpoint")
        return own or f"{(self.exporter_otlp_endpoint or 'http://localhost:4318').removesuffix('/')}/v1/{signal}"

    def _chosen(self, named: tuple[Exporter, ...] | None, endpoint: str | None) -> tuple[Exporter, ...]:
        if self.sdk_disabled:
            return ()
        if named is not None:
            return named
        return ("otlp",) if endpoint else ()


class Settings(BaseSettings):
    """The configuration of one process. Made by ``load``."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        hide_input_in_errors=True,
        populate_by_name=True,
    )

    home: Path = Path(".countersign")
    database_url: str | None = Field(default=None, validation_alias="DATABASE_URL", repr=False)
    pg_bin: Path | None = None
    socket_dir: Path | None = None  # of the embedded cluster; the supervisor tells its children
    issuers: Annotated[tuple[Issuer, ...], NoDecode, PlainValidator(_issuers)] = ()
    api_keys: Annotated[tuple[ApiKey, ...], NoDecode, PlainValidator(_api_keys)] = Field(default=(), repr=False)
    dev_issuer: bool | None = None
    demo: bool | None = None
    keys: str | None = None
    audit_signer: str | None = None
    audit_anchor: str | None = None
    audit_origin: str = Field(
        default="countersign.local/audit/main", pattern=r"^[^\s+]{1,255}$"
    )  # the log's name in every checkpoint
    tls_cert: Path | None = None
    tls_key: Path | None = None
    public_url: str | None = None  # what the supervisor listens on, for pages and amplify_outputs.json
    tls_port: int | None = Field(default=None, ge=1, le=65535)
    allowed_hosts: str = (
        ""  # comma-separated Host names served behind a proxy; loopback names are free in the embedded mode
    )
    allowed_origins: str = ""  # comma-separated exact Origin values of the front ends
    crash_at: str | None = None  # crash tests: the fault point where one process of this home is killed, once
    pool_size: int = Field(default=8, ge=1, le=64)
    statement_cache: int = Field(default=256, ge=0, le=10_000)  # 0 behind a transaction pooler
    max_unanchored_seconds: int = Field(default=900, ge=60, le=3600)  # fail-closed limits: configurable, not removable
    max_intake_rows: int = Field(default=1_000_000, ge=1_000, le=10_000_000)
    log: Literal["auto", "text", "json"] = "auto"  # lines on stderr: JSON in a pipe, text on a terminal
    _telemetry: Telemetry = PrivateAttr(default_factory=Telemetry)

    @field_validator("database_url")
    @classmethod
    def _postgres_url(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                parts = urlsplit(value)
                usable = parts.scheme in _SCHEMES and (parts.port is None or parts.port > 0)
            except ValueError:
                usable = False
            if not usable:
                raise ValueError("should be postgresql://user@host:port/database")
        return value

    @field_validator("keys", "audit_signer", "audit_anchor")
    @classmethod
    def _file_only(cls, value: str | None) -> str | None:
        if value is not None and (not value.startswith("file:") or len(value) == len("file:")):
            raise ValueError("should be file:PATH; other kinds are not built yet")
        return value

    @field_validator("pg_bin", "tls_cert", "tls_key")
    @classmethod
    def _exists(cls, value: Path | None) -> Path | None:
        if value is not None and not value.exists():
            raise ValueError(f"{value} does not exist")
        return value

    @model_validator(mode="after")
    def _together(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("COUNTERSIGN_TLS_CERT and COUNTERSIGN_TLS_KEY belong together; set both or neither")
        if self.crash_at and self.issuers:
            raise ValueError("COUNTERSIGN_CRASH_AT is refused beside a real issuer; unset it")
        if self.dev_issuer and self.issuers:
            raise ValueError(
                "COUNTERSIGN_DEV_ISSUER is refused beside a real issuer in COUNTERSIGN_ISSUERS; unset one of them"
            )
        return self

    # ---------- what follows from the rest ----------
    @property
    def telemetry(self) -> Telemetry:
        """What the standard ``OTEL_*`` say."""
        return self._telemetry

    @property
    def embedded(self) -> bool:
        """Whether this process uses a PostgreSQL of its own."""
        return self.database_url is None

    @property
    def uses_dev_issuer(self) -> bool:
        """Whether tokens of the local dev issuer count: in the embedded mode unless a real issuer is configured."""
        return (self.embedded if self.dev_issuer is None else self.dev_issuer) and not self.issuers

    @property
    def hosts(self) -> frozenset[str]:
        return _names(self.allowed_hosts.lower())

    @property
    def origins(self) -> frozenset[str]:
        return _names(self.allowed_origins)

    @property
    def serves_loopback(self) -> bool:
        """Whether loopback names are free to call by: on one's own machine. Else only ``hosts`` are answered."""
        return self.embedded or self.uses_dev_issuer

    @property
    def demo_mode(self) -> bool:
        return self.uses_dev_issuer and (self.embedded if self.demo is None else self.demo)

    @property
    def keys_dir(self) -> Path:
        return _path(self.keys) or self.home_path / "keys"

    @property
    def signer_path(self) -> Path:
        return _path(self.audit_signer) or self.home_path / "keys" / "audit-signer.key"

    @property
    def anchor_dir(self) -> Path:
        return _path(self.audit_anchor) or self.home_path / "anchor"

    @property
    def pin_path(self) -> Path:
        """The newest checkpoint that a verification on this machine found good."""
        return self.home_path / "audit-pin"

    @property
    def dev_issuer_dir(self) -> Path:
        return self.home_path / "keys"

    @property
    def makes_keys(self) -> bool:
        """Whether missing keys are made at the start: only for a trial. Elsewhere a missing key is an error (FC-14)."""
        return self.uses_dev_issuer

    @property
    def tls_dir(self) -> Path:
        return self.home_path / "tls"

    @property
    def home_path(self) -> Path:
        return self.home.expanduser().absolute()

    @property
    def database_label(self) -> str:
        """Where the data is, fit to print."""
        return "embedded PostgreSQL" if self.database_url is None else printable_url(self.database_url)

    def dsn(self, role: Role) -> Dsn:
        """How to reach the database as ``role``: a login of its own in the embedded mode, SET ROLE behind a given URL."""
        if self.database_url is not None:
            return Dsn({"dsn": self.database_url, "statement_cache_size": self.statement_cache}, role=role)
        return Dsn(self._embedded_kwargs(role) | {"statement_cache_size": self.statement_cache})

    def superuser_kwargs(self) -> dict[str, Any]:
        """Arguments of ``asyncpg.connect`` for the strongest login there is: makes roles and databases, and shows what a forger could do."""
        return {"dsn": self.database_url} if self.database_url is not None else self._embedded_kwargs(SUPERUSER)

    def _embedded_kwargs(self, user: str) -> dict[str, Any]:
        found = self.socket_dir
        if found is None:
            try:
                found = Path((self.home_path / SOCKET_FILE).read_text())
            except FileNotFoundError:
                raise SettingsError(
                    "The embedded PostgreSQL is not running; start it with `countersign serve`, or set DATABASE_URL."
                ) from None
        return {"host": str(found), "port": 5432, "user": user, "database": DATABASE}

    def child_environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment for another process of ours with these settings, wherever it is started."""
        ours = {"COUNTERSIGN_HOME": str(self.home_path)}
        if self.socket_dir is not None:
            ours["COUNTERSIGN_SOCKET_DIR"] = str(self.socket_dir)
        return dict(os.environ) | ours | dict(extra or {})

    def with_socket(self, socket_dir: Path) -> Settings:
        """These settings for a cluster that has been started meanwhile."""
        return self.model_copy(update={"socket_dir": socket_dir})


def load(**overrides: Any) -> Settings:
    """Read the environment. Raises ``SettingsError`` naming each wrong variable."""
    _checked(_OTEL, Telemetry)  # first, and by their own names; ``Settings`` reads them again
    return _checked(_PREFIX, lambda: Settings(**overrides))


def _checked(prefix: str, make: Callable[[], _Made]) -> _Made:
    try:
        return make()
    except ValidationError as error:
        raise SettingsError(
            " ".join(_sentence(item, prefix) for item in error.errors(include_url=False, include_input=False))
        ) from None


def _sentence(item: Any, prefix: str) -> str:
    message = str(item["msg"]).removeprefix("Value error, ")
    if not item["loc"]:
        return f"{message}."
    first = str(item["loc"][0])
    variable = (
        first
        if first == "DATABASE_URL"
        else "DATABASE_URL"
        if first == "database_url"
        else prefix + first.upper().removeprefix(prefix)
    )
    inside = ".".join(str(part) for part in item["loc"][1:])
    if message.startswith(variable):
        return f"{message}."
    return f"{variable}{f' ({inside})' if inside else ''}: {message[0].lower()}{message[1:]}."


def _names(listed: str) -> frozenset[str]:
    return frozenset(name.strip() for name in listed.split(",") if name.strip())


def _path(value: str | None) -> Path | None:
    return None if value is None else Path(value.removeprefix("file:")).expanduser().absolute()


def unknown_variables() -> list[str]:
    """Variables that look like ours and are no setting: misspellings, as a rule."""
    known = {_PREFIX + name.upper() for name in Settings.model_fields}
    return sorted(name for name in os.environ if name.startswith(_PREFIX) and name not in known)


def printable_url(url: str) -> str:
    """A connection URL without its password, wherever that stands; of a malformed one nothing is shown."""
    hidden = "(a database URL that cannot be read)"
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return hidden
    if parts.scheme not in _SCHEMES or parts.netloc.count("@") > 1:
        return hidden
    user = f"{parts.username}@" if parts.username else ""
    host = parts.hostname or dict(parse_qsl(parts.query)).get("host", "")
    return f"{parts.scheme}://{user}{host}{port}{parts.path}"


def printable_endpoint(url: str) -> str:
    """A collector's URL without what somebody may have hidden in it: user, password, query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"


def process_environment(*, path_first: Path | None = None) -> dict[str, str]:
    """The environment as it is, for a program of somebody else's; ``path_first`` is looked in before PATH."""
    found = dict(os.environ)
    if path_first is not None:
        found["PATH"] = os.pathsep.join(filter(None, (str(path_first), found.get("PATH"))))
    return found


def program_environment() -> dict[str, str]:
    """The environment for PostgreSQL's programs, without libpq's ``PG*`` variables, which would redirect them."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C"}
