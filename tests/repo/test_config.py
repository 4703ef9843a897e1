"""The settings: their priority, their validation, and that the example file lists them all."""

from pathlib import Path

import pytest
from dotenv import dotenv_values

from resources import reference
from resources.config import PROJECT_ROOT, ConfigurationError, Settings, load_settings

EXAMPLE = PROJECT_ROOT / "resources" / ".env.example"


def test_example_file_lists_every_setting_and_no_other() -> None:
    assert set(dotenv_values(EXAMPLE)) == {name.upper() for name in Settings.model_fields}


def test_example_file_states_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = load_settings()
    monkeypatch.setitem(Settings.model_config, "env_file", EXAMPLE)
    assert load_settings() == defaults


def test_both_documents_are_what_the_settings_class_says() -> None:
    assert EXAMPLE.read_text(encoding="utf-8") == reference.example()
    assert reference.DOCUMENT_FILE.read_text(encoding="utf-8") == reference.document()


def test_environment_beats_the_env_file_and_flags_beat_both(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("SERVER_PORT=1111\nMODEL_BATCH_SIZE=4\nMODEL_DEVICE=cpu\n", encoding="utf-8")
    monkeypatch.setitem(Settings.model_config, "env_file", env_file)
    monkeypatch.setenv("SERVER_PORT", "2222")
    monkeypatch.setenv("MODEL_DEVICE", "cuda:1")
    settings = load_settings(model_device="cpu", server_host=None)
    assert (settings.model_batch_size, settings.server_port, settings.model_device) == (4, 2222, "cpu")
    assert settings.server_host == "[::]"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("SERVER_PORT", "70000", "от 0 до 65535"),
        ("MODEL_BATCH_SIZE", "many", "целое число от 1 до 512"),
        ("MODEL_DEVICE", "tpu", "cuda, cuda:N или cpu"),
        ("MODEL_DTYPE", "int4", "'bfloat16'"),
        ("MODEL_CHUNK_DURATION", "31", "от 1 до 30"),
        ("MODEL_DO_SAMPLE", "perhaps", "true или false"),
        ("LOGGING_LEVEL", "LOUD", "'WARNING'"),
        ("LOGGING_FORMAT", "%(nope", "формат модуля logging"),
    ],
)
def test_bad_value_is_refused_with_its_name_value_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, allowed: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as refusal:
        load_settings()
    message = str(refusal.value)
    assert name in message and repr(value) in message and allowed in message and "\n" not in message


def test_logging_level_may_be_lower_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGGING_LEVEL", "debug")
    assert load_settings().logging_level == "DEBUG"


def test_settings_cannot_be_changed_after_loading() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().server_port = 1
