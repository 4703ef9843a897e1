"""Loads and validates the settings: environment variables > `.env` > defaults."""

import logging
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PROJECT_ROOT = Path(__file__).resolve().parent.parent

BATCH_SIZE = 32  # chunks recognised together by default
CHUNK_DURATION_S = 30  # the model's window: a chunk is never longer
MESSAGE_LENGTH_BYTES = 200 * 1024 * 1024

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
Dtype = Literal["auto", "bfloat16", "float16", "float32"]


class ConfigurationError(Exception):
    """A setting has a value that is not allowed. The message is one line for the operator."""


class Settings(BaseSettings):
    """All settings of the service. A field's upper-case name is its variable; `resources/.env.example` lists them."""

    model_config = SettingsConfigDict(
        env_file=PROJECT_ROOT / ".env", env_file_encoding="utf-8", extra="ignore", frozen=True, env_ignore_empty=True
    )

    # Server
    server_host: str = "[::]"
    server_port: int = Field(50051, ge=0, le=65535)
    server_max_workers: int = Field(10, ge=1, le=1024)
    grpc_max_send_message_length: int = Field(MESSAGE_LENGTH_BYTES, ge=1024, le=2**31 - 1)
    grpc_max_receive_message_length: int = Field(MESSAGE_LENGTH_BYTES, ge=1024, le=2**31 - 1)
    stream_max_bytes: int = Field(2 * 1024**3, ge=1024)
    stream_idle_timeout_s: float = Field(30.0, gt=0, le=3600)
    shutdown_grace_s: float = Field(30.0, ge=0, le=3600)
    server_reflection: bool = False
    server_channelz: bool = False

    # Admission
    server_max_waiting: int = Field(64, ge=1, le=100_000)
    admission_max_bytes: int = Field(4 * 1024**3, ge=1024)
    admission_max_queued_audio_s: float = Field(7200.0, gt=0)
    connection_max_age_s: float = Field(3600.0, ge=1, le=2_000_000)
    connection_grace_s: float = Field(600.0, ge=1, le=2_000_000)

    # Who may call
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    tls_client_ca_file: Path | None = None
    auth_token_hashes: Annotated[tuple[str, ...], NoDecode] = ()

    # Seeing
    metrics_host: str = "127.0.0.1"
    metrics_port: int = Field(0, ge=0, le=65535)
    watchdog_timeout_s: float = Field(120.0, ge=1, le=3600)

    # Model
    model_name: str = Field("Vikhrmodels/Borealis", min_length=1)
    model_revision: str | None = None
    model_local_files_only: bool = False
    model_cache_dir: Path = PROJECT_ROOT / ".cache" / "models"
    model_device: str = "cuda"
    model_dtype: Dtype = "auto"
    model_cpu_threads: int | None = Field(None, ge=1, le=1024)
    model_batch_size: int = Field(BATCH_SIZE, ge=1, le=512)
    model_chunk_duration: float = Field(CHUNK_DURATION_S, ge=1, le=30)
    model_max_new_tokens: int = Field(350, ge=1, le=4096)
    model_do_sample: bool = False
    model_temperature: float = Field(0.2, gt=0, le=2)
    model_top_p: float = Field(0.9, gt=0, le=1)
    model_top_k: int = Field(50, ge=1)
    model_seed: int = Field(0, ge=0, le=2**32 - 1)

    # The cluster, for borealis-ray
    ray_address: str = ""
    ray_deploy: bool = True
    ray_replicas: int = Field(1, ge=1, le=10_000)
    ray_max_replicas: int = Field(0, ge=0, le=10_000)
    ray_gpus_per_replica: float = Field(1.0, ge=0, le=64)
    ray_cpus_per_replica: float = Field(1.0, ge=0, le=1024)
    ray_max_ongoing_requests: int = Field(16, ge=1, le=1024)
    ray_chunk_timeout_s: float = Field(300.0, gt=0, le=24 * 3600)
    ray_start_timeout_s: float = Field(600.0, gt=0, le=24 * 3600)

    # Audio
    audio_max_duration_s: float = Field(4 * 3600, gt=0, le=24 * 3600)
    audio_decode_timeout_s: float = Field(600.0, gt=0, le=24 * 3600)
    ffmpeg_binary: str | None = None

    # Logging
    logging_level: LogLevel = "INFO"
    logging_format: str = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"
    logging_json: bool = False
    logging_filenames: bool = True

    @field_validator("logging_level", mode="before")
    @classmethod
    def _upper_case(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("logging_format")
    @classmethod
    def _is_a_logging_format(cls, value: str) -> str:
        try:
            logging.Formatter(value)
        except ValueError as error:
            raise ValueError("формат модуля logging, например %(asctime)s - %(message)s") from error
        return value

    @field_validator("auth_token_hashes", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("auth_token_hashes")
    @classmethod
    def _are_hashes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(re.fullmatch(r"[0-9a-fA-F]{64}", digest) for digest in value):
            raise ValueError("SHA-256 токенов через запятую, каждый из 64 шестнадцатеричных цифр")
        return value

    @field_validator("model_device")
    @classmethod
    def _is_a_device(cls, value: str) -> str:
        if not re.fullmatch(r"cpu|cuda(:\d+)?", value):
            raise ValueError("cuda, cuda:N или cpu")
        return value


def load_settings(**flags: Any) -> Settings:
    """Reads the settings; `flags` (field names, None = not given) beat the environment.

    Raises:
        ConfigurationError: names the setting, its value and what is allowed.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise ConfigurationError("; ".join(_explain(dict(problem)) for problem in error.errors())) from error


def _explain(problem: dict[str, Any]) -> str:
    name = str(problem["loc"][0]).upper() if problem["loc"] else "?"
    return f"Недопустимое значение настройки {name}={str(problem['input'])!r}: допустимо {_allowed(problem)}"


def _allowed(problem: dict[str, Any]) -> str:
    """Says what is allowed where pydantic found `problem`, from the field's own constraints."""
    field = Settings.model_fields.get(str(problem["loc"][0]).lower()) if problem["loc"] else None
    bounds = _bounds(field.metadata) if field else ""
    kind = problem["type"].split("_")[0]
    if kind == "literal":
        return str(problem["ctx"]["expected"]).replace(" or ", ", ")
    if kind == "bool":
        return "true или false"
    if kind == "value":
        return str(problem["ctx"]["error"])
    kinds: dict[object, str] = {int: "целое число", float: "число", str: "строка"}
    return f"{kinds.get(field.annotation, 'другое значение') if field else 'другое значение'} {bounds}".strip()


def _bounds(metadata: list[Any]) -> str:
    """Words the numeric constraints of a field, such as 'от 1 до 512'."""
    words = {"ge": "от", "gt": "больше", "le": "до", "min_length": "длиной от"}
    found = [(attribute, getattr(limit, attribute, None)) for limit in metadata for attribute in words]
    return " ".join(f"{words[attribute]} {value:g}" for attribute, value in found if value is not None)
