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
Dtype = Literal["auto", "bfloat16", "float16", "float32", "int8"]


SECTIONS = {  # first field of each section -> its title in the documentation
    "server_host": "Server",
    "server_max_waiting": "Admission (a call beyond these limits is asked to retry)",
    "tls_cert_file": "Access",
    "http_host": "HTTP and the page (docs/http.md)",
    "metrics_host": "Monitoring",
    "model_name": "Model",
    "ray_address": "Cluster (implementations that end in -ray, docs/scaling.md)",
    "audio_max_duration_s": "Audio",
    "logging_level": "Logging",
}


class ConfigurationError(Exception):
    """A setting has a value that is not allowed. The message is one line for the operator."""


class Settings(BaseSettings):
    """All settings of the service. A field's upper-case name is its variable. Documented by resources/reference.py."""

    model_config = SettingsConfigDict(
        env_file=PROJECT_ROOT / ".env", env_file_encoding="utf-8", extra="ignore", frozen=True, env_ignore_empty=True
    )

    server_host: str = Field("[::]", description="Address to listen on; `[::]` is every interface, IPv4 included.")
    server_port: int = Field(50051, ge=0, le=65535, description="Port to listen on; 0 lets the system choose.")
    server_max_workers: int = Field(10, ge=1, le=1024, description="Requests handled at once; each holds one thread.")
    grpc_max_send_message_length: int = Field(
        MESSAGE_LENGTH_BYTES, ge=1024, le=2**31 - 1, description="Longest message sent, in bytes."
    )
    grpc_max_receive_message_length: int = Field(
        MESSAGE_LENGTH_BYTES, ge=1024, le=2**31 - 1, description="Longest message received, in bytes."
    )
    stream_max_bytes: int = Field(
        2 * 1024**3, ge=1024, description="Most bytes that one streamed call may send in all."
    )
    stream_idle_timeout_s: float = Field(
        30, gt=0, le=3600, description="Seconds without a message after which a stream is ended and its thread freed."
    )
    shutdown_grace_s: float = Field(
        30, ge=0, le=3600, description="Seconds that calls in flight get to finish when the server stops."
    )
    server_reflection: bool = Field(False, description="`true` answers gRPC reflection: the list of services.")
    server_channelz: bool = Field(
        False, description="`true` answers gRPC channelz: connections with their addresses and counters."
    )

    server_max_waiting: int = Field(64, ge=1, le=100_000, description="Calls that may wait for a thread.")
    admission_max_bytes: int = Field(4 * 1024**3, ge=1024, description="Bytes of uploads on disk at once.")
    admission_max_queued_audio_s: float = Field(7200, gt=0, description="Seconds of audio that may wait for the model.")
    connection_max_age_s: float = Field(3600, ge=1, le=2_000_000, description="Seconds a connection may live.")
    connection_grace_s: float = Field(
        600, ge=1, le=2_000_000, description="Seconds that the calls of an expired connection may go on."
    )

    tls_cert_file: Path | None = Field(
        None, description="The server's certificate, PEM; with the key it turns TLS on. Read again when it changes."
    )
    tls_key_file: Path | None = Field(None, description="The server's private key, PEM.")
    tls_client_ca_file: Path | None = Field(
        None, description="PEM; clients must present a certificate of this authority."
    )
    auth_token_hashes: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="SHA-256 of the accepted tokens, separated by commas; empty accepts every caller."
    )

    http_host: str = Field("127.0.0.1", description="Address of the HTTP gateway; `::` is every interface.")
    http_port: int = Field(0, ge=0, le=65535, description="Port of the HTTP gateway; 0 turns it off.")
    http_allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Origins, such as `https://example.com`, whose pages may use the gateway, separated by commas; "
        "empty allows only its own.",
    )

    metrics_host: str = Field("127.0.0.1", description="Address of the Prometheus metrics.")
    metrics_port: int = Field(
        0, ge=0, le=65535, description="Port of the Prometheus metrics (`/metrics`); 0 turns them off."
    )
    watchdog_timeout_s: float = Field(
        120,
        ge=1,
        le=3600,
        description="Seconds a busy model may make no progress before the process exits with code 70.",
    )

    model_name: str = Field(
        "Vikhrmodels/Borealis",
        min_length=1,
        description="The model: a folder or a name on Hugging Face. Bundled for demonstration: "
        "`ml/checkpoints/borealis-tiny-ru`.",
    )
    model_revision: str | None = Field(
        None, description="Commit, tag or branch on Hugging Face; empty takes the default branch."
    )
    model_local_files_only: bool = Field(False, description="`true` downloads nothing.")
    model_cache_dir: Path = Field(
        PROJECT_ROOT / ".cache" / "models",
        description="Folder of converted models; empty is `.cache/models` in the project.",
    )
    model_device: str = Field(
        "cuda", description="`cuda`, `cuda:N` or `cpu`; without a GPU the CPU is used, with a warning."
    )
    model_dtype: Dtype = Field(
        "auto",
        description="`auto`, `bfloat16`, `float16`, `float32` or `int8`. `auto` is, for Borealis, `bfloat16` on CUDA "
        "(`float16` before Ampere) and `float32` on a CPU; for Whisper, `float16` on CUDA and `int8` on a CPU.",
    )
    model_cpu_threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Threads that compute on the CPU; empty is one for each core, within the CPU quota.",
    )
    model_language: str = Field(
        "ru",
        pattern=r"^([a-z]{2}|auto)$",
        description="Language of recordings whose request names none, for models that know several; `auto` detects it.",
    )
    model_batch_size: int = Field(
        BATCH_SIZE, ge=1, le=512, description="Chunks recognised together; halve it on `CUDA out of memory`."
    )
    model_chunk_duration: float = Field(
        CHUNK_DURATION_S, ge=1, le=30, description="Target length of a chunk in seconds; never exceeded."
    )
    model_max_new_tokens: int = Field(350, ge=1, le=4096, description="Longest text of one chunk, in tokens.")
    model_do_sample: bool = Field(
        False, description="`false` decodes greedily: the same audio always gives the same text; `true` samples."
    )
    model_temperature: float = Field(0.2, gt=0, le=2, description="Temperature of sampling.")
    model_top_p: float = Field(0.9, gt=0, le=1, description="Share of the probability to sample from.")
    model_top_k: int = Field(50, ge=1, description="Number of tokens to sample from.")
    model_seed: int = Field(0, ge=0, le=2**32 - 1, description="Seed of sampling.")
    model_repetition_penalty: float | None = Field(
        None,
        ge=1,
        le=2,
        description="Lowers the scores of tokens that a chunk's text has already; 1 is none. Empty takes "
        "the model's own: `generation_config.json`, or 1.1 for Qwen2.5-0.5B-Instruct.",
    )

    ray_address: str = Field(
        "", description="`host:port` of a Ray cluster's head, or `auto` on one of its nodes; empty starts a local Ray."
    )
    ray_deploy: bool = Field(
        True, description="`false` uses an application that is already deployed, such as a RayService."
    )
    ray_replicas: int = Field(1, ge=1, le=10_000, description="Replicas of the model.")
    ray_max_replicas: int = Field(
        0, ge=0, le=10_000, description="Above RAY_REPLICAS: replicas are added up to this number, by load."
    )
    ray_gpus_per_replica: float = Field(
        1, ge=0, le=64, description="GPUs of each replica; fractions share one. None with MODEL_DEVICE=cpu."
    )
    ray_cpus_per_replica: float = Field(1, ge=0, le=1024, description="CPUs of each replica.")
    ray_max_ongoing_requests: int = Field(
        16, ge=1, le=1024, description="Chunks that a replica holds at once, its queue included."
    )
    ray_chunk_timeout_s: float = Field(
        300, gt=0, le=24 * 3600, description="Seconds until a chunk without an answer fails, retries included."
    )
    ray_start_timeout_s: float = Field(
        600, gt=0, le=24 * 3600, description="Seconds that the first replica may take to start."
    )

    audio_max_duration_s: float = Field(4 * 3600, gt=0, le=24 * 3600, description="Longest recording, in seconds.")
    audio_decode_timeout_s: float = Field(
        600, gt=0, le=24 * 3600, description="Longest time to decode one recording, in seconds."
    )
    ffmpeg_binary: str | None = Field(
        None, description="An ffmpeg 6.0 or newer (it must know `fd:`); empty is the one of imageio-ffmpeg."
    )

    logging_level: LogLevel = Field("INFO", description="`DEBUG`, `INFO`, `WARNING` or `ERROR`.")
    logging_format: str = Field(
        "%(asctime)s - %(name)s - %(levelname)s - %(message)s", description="A format of Python's logging module."
    )
    logging_json: bool = Field(False, description="`true` writes one JSON object a line instead.")
    logging_filenames: bool = Field(True, description="`false` keeps file names out of the logs.")

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

    @field_validator("auth_token_hashes", "http_allowed_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("auth_token_hashes")
    @classmethod
    def _are_hashes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(re.fullmatch(r"[0-9a-fA-F]{64}", digest) for digest in value):
            raise ValueError("SHA-256 токенов через запятую, каждый из 64 шестнадцатеричных цифр")
        return value

    @field_validator("http_allowed_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(re.fullmatch(r"https?://[^/\s*]+", origin) for origin in value):
            raise ValueError("адреса вида https://example.com через запятую, без пути")
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
