"""Every setting, its default, and where values come from: `--set` > CLONEGUARD_* > file > profile > default."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
    field_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from app.profiles import DEFAULT_PROFILE, PROFILES, ProfileName
from defenses.out_of_distribution.scorers import ScorerName
from defenses.relabelling import Alteration
from defenses.vocabulary import Mode


def _words(given: object) -> object:
    """A list that came as one text, from the command line or the environment."""
    return given.replace(",", " ").split() if isinstance(given, str) else given


Rate = Annotated[float, Field(ge=0.0, le=1.0)]
Queries = Annotated[int, Field(ge=0, le=2**53)]  # what JSON carries exactly
Networks = Annotated[tuple[IPvAnyNetwork, ...], NoDecode, BeforeValidator(_words)]
Anonymous = Literal["auto", "allow", "refuse"]


NOT_SETTINGS = ("CLONEGUARD_DATA", "CLONEGUARD_ABUSE")  # of the benchmarks and of the tests


class SettingsError(Exception):
    """A setting is unknown or has an impossible value; the message names it on one line."""


class Section(BaseModel):
    """A group of settings; unknown keys are errors, because a misspelt defence is no defence."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Server(Section):
    """Limits and deadlines of the public port."""

    host: str = Field("127.0.0.1", description="address of the public port")
    port: int = Field(8000, ge=0, le=65535, description="public port; 0 takes a free one")
    max_body_bytes: int = Field(10 * 2**20, ge=1024, description="largest request body (bytes)")
    max_buffered_bytes: int = Field(256 * 2**20, ge=2**20, description="largest sum of the bodies of all requests under way (bytes)")
    max_pixels: int = Field(16_800_000, ge=1024, description="largest image (pixels)")
    max_images: int = Field(64, ge=1, description="most images in one Open Inference Protocol request")
    header_seconds: float = Field(5.0, gt=0, description="time for a request's headers (s)")
    body_seconds: float = Field(15.0, gt=0, description="time for a request's body (s)")
    keep_alive_seconds: int = Field(20, ge=1, description="how long an idle connection stays open (s)")
    deadline_seconds: float = Field(5.0, gt=0, description="longest wait in the queue before a query is shed (s)")
    queue: int = Field(256, ge=1, description="most queries between arrival and answer; more are shed with 503")
    max_batch: int = Field(32, ge=1, description="most queries in one pass of the model")
    drain_seconds: float = Field(0.0, ge=0, description="on SIGTERM, /readyz refuses for so long before the port closes (s)")
    shutdown_seconds: int = Field(10, ge=1, description="time for open requests on SIGTERM (s)")
    trusted_proxies: Networks = Field((), description="addresses and networks whose X-Forwarded-For is believed, separated by commas")
    ipv6_prefix: int = Field(64, ge=32, le=128, description="leading bits of an IPv6 address that tell clients apart")


class Model(Section):
    """The recognizer and where it runs."""

    bundle: str = Field("cifar10", description="name of a bundled recognizer, or a bundle's directory")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where it works, else the CPU")
    precision: Literal["auto", "fp32", "int8"] = Field("auto", description="auto: what the bundle measured to be faster")
    workers: int = Field(0, ge=0, description="passes of the model at once; 0: half as many as CPU cores, 1 on CUDA")
    threads: int = Field(1, ge=1, description="ONNX Runtime threads for each micro-batch")


class OutOfDistribution(Section):
    """The filter in front of the answer (Atli et al.)."""

    mode: Mode = Field(Mode.OFF, description="off, shadow (counted, not applied) or enforce")
    scorer: ScorerName | Literal["auto"] = Field("auto", description="auto: the one the bundle was calibrated best with")
    benign_fpr: Rate = Field(0.02, description="share of benign queries flagged at the threshold")
    hysteresis: Rate = Field(0.05, description="benign share at the lower threshold that a member of a flagged neighbourhood must pass")


class NearDuplicates(Section):
    """One neighbourhood, one answer (Kinbara et al.)."""

    mode: Mode = Field(Mode.OFF, description="off, shadow or enforce")
    perceptual_radius: int | None = Field(
        None, ge=0, le=7, description="Hamming radius of the 64-bit perceptual hash (bits); none: the bundle's own, or 4"
    )
    embedding_radius: int | None = Field(None, ge=0, description="Hamming radius of the embedding code (bits); none: the bundle's own")


class Misrecognition(Section):
    """Intentional misrecognition: keyed, per neighbourhood."""

    mode: Mode = Field(Mode.OFF, description="off, shadow or enforce")
    rate: Rate = Field(0.0, description="share of neighbourhoods altered for no other reason")
    alteration: Alteration = Field(Alteration.IMPERSONATION, description="how an altered answer is made from the honest one")


class Watermark(Section):
    """A small keyed share of wrong answers, remembered as evidence (DAWN, Szyller et al.)."""

    mode: Mode = Field(Mode.OFF, description="off, shadow or enforce")
    rate: Rate = Field(0.005, description="share of neighbourhoods that carry the watermark")


class Suspicion(Section):
    """What follows from a client's record: the share of its queries that were flagged."""

    mode: Mode = Field(Mode.OFF, description="off, shadow or enforce; nothing follows unless ood and near_duplicates are enforced too")
    tolerated: Rate = Field(0.35, description="share of flagged queries up to which a client is not suspected")
    certain: Rate = Field(
        0.55, description="share from which no more of the answers that its client founds are right than a guess would be"
    )
    patience: int = Field(50, ge=1, description="unflagged queries that every client is given in advance")

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.tolerated >= self.certain:
            raise ValueError("suspicion.tolerated must be below suspicion.certain")
        return self


class Truncation(Section):
    """How much of the score vector leaves."""

    mode: Mode = Field(Mode.OFF, description="off, shadow or enforce")
    top_k: int = Field(3, ge=1, description="entries of an answer")
    decimals: int | None = Field(2, ge=0, le=17, description="digits of a score; none: all of them")
    labels_only: bool = Field(default=False, description="no scores at all")


class Accounts(Section):
    """Who may ask; the accounts themselves are made with `cloneguard keys`."""

    anonymous: Anonymous = Field("auto", description="queries without a key: allow, refuse, or auto: allowed until there is an account")


class Limits(Section):
    """Quotas, in queries; an account may have its own."""

    per_minute: Queries | None = Field(None, description="most queries of a client in a minute; none: no limit")
    per_day: Queries | None = Field(None, description="most queries of a client in a day; none: no limit")
    total_per_minute: Queries | None = Field(None, description="most queries of all clients together in a minute; none: no limit")
    total_per_day: Queries | None = Field(None, description="most queries of all clients together in a day; none: no limit")


class Store(Section):
    """Where neighbourhoods and the audit log live."""

    url: str = Field("", description="store URL: sqlite:///PATH or redis://HOST:PORT/DB; empty: sqlite:///STATE/cloneguard.db")
    most_neighbourhoods: int = Field(1_000_000, ge=1, description="neighbourhoods that are kept; beyond, the oldest are forgotten")
    retention_days: float = Field(90.0, gt=0, description="age at which neighbourhoods are forgotten (days before the newest)")
    timeout_seconds: float = Field(0.05, gt=0, description="longest wait for Redis before answers come from the local view (s)")
    audit_buffer: int = Field(100_000, ge=1, description="audit records kept in memory while Redis is away, about 1 KB each")
    most_audit_records: int = Field(500_000, ge=1, description="audit records kept in Redis; beyond, the oldest go (a file keeps all)")

    @field_serializer("url", when_used="json")
    def _without_password(self, url: str) -> str:
        return re.sub(r"(://[^:/@]*:).*@", r"\1**********@", re.sub(r"([?&]password=)[^&]*", r"\1**********", url))


class Audit(Section):
    """The record of every answer."""

    enabled: bool = Field(default=True, description="one hash-chained record a query")
    required: bool = Field(default=True, description="a query whose record can't be kept gets no answer")


class Evidence(Section):
    """Watermarked answers that are kept: from which account was a clone taken?"""

    enabled: bool = Field(default=True, description="keep watermarked answers and their images, for `cloneguard verify`")
    most_bytes: int = Field(2**30, ge=2**20, description="largest sum of the images; beyond, who has most loses some (bytes)")
    retention_days: float = Field(730.0, gt=0, description="age at which evidence is forgotten; its commitments stay (days)")


class Admin(Section):
    """The operators' port."""

    host: str = Field("127.0.0.1", description="address of the admin port")
    port: int = Field(8001, ge=0, le=65535, description="admin port; 0 takes a free one")
    hosts: tuple[str, ...] = Field(("localhost", "127.0.0.1", "[::1]"), description="names that the Host header may carry")
    token: SecretStr | None = Field(None, description="admin token; none: made on first start and kept in STATE/admin-token")


class ProfileSource(PydanticBaseSettingsSource):
    """The values of the chosen profile, below everything that was said explicitly."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002, the base class's signature
        """Unused: the whole profile is given at once."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Look up the profile that the sources above chose; an unknown name is left to validation."""
        profile = PROFILES.get(self.current_state.get("profile", DEFAULT_PROFILE))
        return {} if profile is None else {section: dict(values) for section, values in profile.items()}


class Settings(BaseSettings):
    """Everything the service can be told. Read once, at start."""

    model_config = SettingsConfigDict(
        env_prefix="CLONEGUARD_", env_nested_delimiter="__", frozen=True, extra="forbid", nested_model_default_partial_update=True
    )

    profile: ProfileName = Field(DEFAULT_PROFILE, description="named set of values below: open, truncate, balanced, strict")
    state: Path = Field(Path("state"), description="directory of the secret, the admin token and the embedded store")
    secret: SecretStr | None = Field(None, description="key of all keyed decisions; none: made on first start and kept in STATE/secret")
    server: Server = Server()
    model: Model = Model()
    ood: OutOfDistribution = OutOfDistribution()
    near_duplicates: NearDuplicates = NearDuplicates()
    misrecognition: Misrecognition = Misrecognition()
    suspicion: Suspicion = Suspicion()
    watermark: Watermark = Watermark()
    truncation: Truncation = Truncation()
    accounts: Accounts = Accounts()
    limits: Limits = Limits()
    store: Store = Store()
    audit: Audit = Audit()
    evidence: Evidence = Evidence()
    admin: Admin = Admin()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003, the base class's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003, the base class's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: said on the command line, environment, file, profile."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls), ProfileSource(settings_cls)

    def store_url(self) -> str:
        """The store's URL, with the embedded default under `state`."""
        return self.store.url or f"sqlite:///{self.state / 'cloneguard.db'}"

    def evidence_path(self) -> Path:
        """The evidence vault: replicas that share `state` share it."""
        return self.state / "evidence.db"

    def policy(self) -> dict[str, Any]:
        """All settings for operators to read; secrets are masked."""
        return self.model_dump(mode="json")


def _is_setting(path: str) -> bool:
    section, _, key = path.partition("__")
    field = Settings.model_fields.get(section)
    keys = getattr(field and field.annotation, "model_fields", {})
    return field is not None and (not key or key in keys)


def read_settings(*, file: Path | None = None, assignments: Sequence[str] = (), **given: Any) -> Settings:
    """Read settings once.

    `assignments` are `section.key=value` texts (`--set`), `given` nested values of command-line options; both win over
    environment and file. Raises SettingsError.
    """
    for assignment in assignments:
        path, separator, value = assignment.partition("=")
        if not separator or not all(path.split(".")):
            raise SettingsError(f"--set {assignment!r}: expected section.key=value")
        *sections, key = path.split(".")
        target = given
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise SettingsError(f"--set {assignment!r}: {section} has a value already")
        target[key] = None if value in {"none", "null"} else value
    source = type("FileSettings", (Settings,), {"model_config": SettingsConfigDict(toml_file=file)}) if file else Settings
    if file and not file.is_file():
        raise SettingsError(f"no settings file {file}")
    unknown = [key for key in given if key not in Settings.model_fields]
    if unknown:
        raise SettingsError(f"unknown setting {unknown[0]!r}; sections: {', '.join(Settings.model_fields)}")
    for name in os.environ:
        if name.startswith("CLONEGUARD_") and name not in NOT_SETTINGS and not _is_setting(name.removeprefix("CLONEGUARD_").lower()):
            raise SettingsError(f"no setting is called {name}; a key is CLONEGUARD_SECTION__KEY")
    try:
        settings: Settings = source(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        secret = first["type"] == "extra_forbidden" or "secret" in name or "token" in name  # a misspelt name may carry a secret too
        said = "" if secret else f" (given: {first['input']!r})"
        raise SettingsError(f"setting {name}: {first['msg']}{said}") from None
    except ValueError as error:
        raise SettingsError(f"settings: {error}") from error
    return settings
