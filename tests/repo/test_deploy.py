"""The files under deploy/ are well formed and agree with the service."""

import configparser
import json
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from dotenv import dotenv_values
from prometheus_client import Metric

from api.grpc.metrics import ENGINE_METRICS, Metrics
from ml.errors import SpeechError
from resources.config import PROJECT_ROOT, Settings
from services.transcription.errors import OverloadedError

DEPLOY = PROJECT_ROOT / "deploy"
UNIT = DEPLOY / "systemd" / "transcription.service"
DOCKERFILE = DEPLOY / "container" / "Dockerfile"
COMPOSE = DEPLOY / "container" / "compose.yaml"
PROMETHEUS = DEPLOY / "prometheus" / "prometheus.yml"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboard.json"

SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
MEBIBYTE = 1024 * 1024


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


# --- Metrics ---


@cache
def metric_families() -> tuple[Metric, ...]:
    """Everything that /metrics can carry, the metrics of an engine and of a cluster included."""
    return tuple(Metrics(lambda: dict.fromkeys(ENGINE_METRICS, 0.0)).registry.collect())


def exposed_metrics() -> set[str]:
    """The names of all samples that /metrics can carry."""
    return {family.name + suffix for family in metric_families() for suffix in SUFFIXES[family.type]}


def metrics_named(expression: str) -> set[str]:
    """The metrics that a PromQL expression asks for by name."""
    unquoted = re.sub(r'"[^"]*"', "", expression)
    return set(re.findall(r"\b(?:transcription|process)_\w+", unquoted))


def outcomes_named(expression: str) -> set[str]:
    return {name for names in re.findall(r'outcome=~?"([^"]*)"', expression) for name in names.split("|")}


def possible_outcomes() -> set[str]:
    def codes(kind: type[SpeechError]) -> set[str]:
        return {kind.code}.union(*(codes(child) for child in kind.__subclasses__()))

    assert OverloadedError in SpeechError.__subclasses__()  # so the service's own errors are among them
    return {"OK", *(status.name for status in grpc.StatusCode), *codes(SpeechError)}


def dashboard_expressions() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    targets = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return targets + [
        variable["definition"] for variable in dashboard["templating"]["list"] if "definition" in variable
    ]


def alert_rules() -> list[dict[str, Any]]:
    return [rule for group in load(ALERTS)["groups"] for rule in group["rules"]]


def all_expressions() -> list[str]:
    return dashboard_expressions() + [rule["expr"] for rule in alert_rules()]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere prometheus-client has no metrics of the process")
def test_every_metric_of_dashboard_and_alerts_is_one_the_server_exposes() -> None:
    named = set().union(*map(metrics_named, all_expressions()))
    assert len(named) >= 8
    assert named <= exposed_metrics(), named - exposed_metrics()


def test_every_metric_of_calls_and_every_measure_of_load_is_on_the_dashboard() -> None:
    named = set().union(*map(metrics_named, dashboard_expressions()))
    wanted = [family for family in Metrics(dict).registry.collect() if family.name.startswith("transcription_")]
    assert len(wanted) >= 6
    for family in wanted:
        assert any(family.name + suffix in named for suffix in SUFFIXES[family.type]), family.name
    assert {"transcription_queued_audio_seconds", "transcription_slots_occupied"} <= named


def test_every_outcome_of_dashboard_and_alerts_is_one_there_can_be() -> None:
    named = set().union(*map(outcomes_named, all_expressions()))
    assert {"OK", "INTERNAL", "UNAUTHENTICATED"} <= named
    assert named <= possible_outcomes(), named - possible_outcomes()


def test_dashboard_has_panels_of_its_own_place_and_data_source() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 8
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells) and max(x for x, _ in cells) < 24
    for panel in panels:
        assert panel["type"] in ("stat", "timeseries") and panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        references = [target["refId"] for target in panel["targets"]]
        assert references and len(set(references)) == len(references)


@pytest.mark.parametrize("expression", all_expressions())
def test_brackets_of_every_expression_match(expression: str) -> None:
    open_ones: list[str] = []
    for sign in re.sub(r'"[^"]*"', "", expression):
        if sign in "([{":
            open_ones.append(sign)
        elif sign in ")]}":
            assert open_ones and open_ones.pop() + sign in ("()", "[]", "{}")
    assert not open_ones


def test_every_alert_has_a_severity_a_summary_and_a_description() -> None:
    rules = alert_rules()
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 6
    for rule in rules:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"] and rule["annotations"]["description"]
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))


def test_prometheus_loads_the_alerts_and_asks_where_compose_serves_metrics() -> None:
    configuration = load(PROMETHEUS)
    assert [(PROMETHEUS.parent / name).resolve() for name in configuration["rule_files"]] == [ALERTS]
    (job,) = configuration["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    host, port = target.split(":")
    assert load(COMPOSE)["services"][host]["environment"]["METRICS_PORT"] == int(port)
    assert f'up{{job="{job["job_name"]}"}}' in "".join(rule["expr"] for rule in alert_rules())


# --- systemd ---


class _Unit(configparser.RawConfigParser):
    """A unit file: names in any case, a name may come twice (the last counts), no interpolation."""

    def __init__(self) -> None:
        super().__init__(strict=False, delimiters=("=",), comment_prefixes=("#", ";"))

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def unit() -> _Unit:
    parsed = _Unit()
    parsed.read_string(UNIT.read_text(encoding="utf-8"))
    return parsed


def test_unit_signals_the_server_alone_and_gives_it_longer_than_its_grace() -> None:
    service = unit()["Service"]
    assert (service["KillMode"], service["KillSignal"]) == ("mixed", "SIGTERM")
    assert float(service["TimeoutStopSec"]) >= Settings.model_fields["shutdown_grace_s"].default + 10
    assert service["Restart"] == "on-failure"
    assert service["OOMPolicy"] == "continue"


def test_unit_runs_an_existing_script_without_privileges() -> None:
    service = unit()["Service"]
    python, script = service["ExecStart"].split()
    assert python == service["WorkingDirectory"] + "/.venv/bin/python"
    assert (PROJECT_ROOT / script).is_file()
    assert service["DynamicUser"] == service["NoNewPrivileges"] == "yes" and "User" not in service
    assert service["ProtectSystem"] == "strict" and service["CapabilityBoundingSet"] == ""
    cache = f"/var/cache/{service['CacheDirectory']}"
    written_to = re.findall(r"\b(?:MODEL_CACHE_DIR|HF_HOME)=(\S+)", UNIT.read_text(encoding="utf-8"))
    assert len(written_to) == 2 and all(path.startswith(cache + "/") for path in written_to)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd here")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """With the paths that this machine lacks replaced by ones it has."""
    text = UNIT.read_text(encoding="utf-8").replace("/opt/transcription/.venv/bin/python", sys.executable)
    here = tmp_path / UNIT.name
    here.write_text(text.replace("/opt/transcription", str(PROJECT_ROOT)), encoding="utf-8")
    command = ["systemd-analyze", "verify", str(here)]
    verdict = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    complaints = [line for line in verdict.stderr.splitlines() if UNIT.name in line]
    assert verdict.returncode == 0 and not complaints, verdict.stderr


def test_example_of_the_units_environment_holds_known_settings_of_allowed_values() -> None:
    values = dotenv_values(UNIT.with_name("transcription.env"), interpolate=False)
    commented = re.findall(r"^#([A-Z_]+)=", UNIT.with_name("transcription.env").read_text(encoding="utf-8"), re.M)
    known = {name.upper() for name in Settings.model_fields}
    assert len(commented) >= 3 and set(values) | set(commented) <= known
    Settings(_env_file=None, **{name.lower(): value for name, value in values.items()})
    assert "MODEL_CACHE_DIR" not in values  # it would beat the unit's own


# --- The container ---


def instructions() -> list[list[str]]:
    """The Dockerfile's instructions as words, continue_text lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [line.split() for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def copied_from_here() -> list[str]:
    copies = [words[1:-1] for words in instructions() if words[0] == "COPY"]
    return [source for sources in copies if not sources[0].startswith("--from=") for source in sources]


def test_every_source_the_container_file_copies_is_in_the_repository_and_sent_to_the_builder() -> None:
    sources = copied_from_here()
    assert {"start.py", "requirements.txt", "api/", "services/", "ml/", "resources/", "generated/"} <= set(sources)
    ignore = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    for source in sources:
        path = PROJECT_ROOT / source
        assert path.is_dir() if source.endswith("/") else path.is_file(), source
        assert "!" + source.rstrip("/") in ignore, source
    kept = {line[1:] for line in ignore if line.startswith("!")}
    assert "*" in ignore and kept == {source.rstrip("/") for source in sources}


def test_every_package_that_the_server_imports_is_copied() -> None:
    entry = (PROJECT_ROOT / "api" / "grpc" / "transcription_server.py").read_text(encoding="utf-8")
    ours = {path.name for path in PROJECT_ROOT.iterdir() if (path / "__init__.py").is_file() and path.name != "tests"}
    assert "ml" in ours and set(re.findall(r"^from (\w+)", entry, re.M)) & ours
    assert {package + "/" for package in ours} <= set(copied_from_here())


def test_container_file_chooses_between_two_bases_by_one_argument() -> None:
    stages = {words[3]: words[1] for words in instructions() if words[0] == "FROM" and len(words) == 4}
    assert stages["base-cpu"] == "${CPU_BASE}" and stages["base-cuda"] == "${CUDA_BASE}"
    last = [words for words in instructions() if words[0] == "FROM"][-1]
    assert last == ["FROM", "base-${DEVICE}"]
    arguments = dict(word.split("=", 1) for words in instructions() if words[0] == "ARG" for word in words[1:])
    assert arguments["DEVICE"] == "cpu"
    assert all(re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", arguments[name]) for name in ("CPU_BASE", "CUDA_BASE"))


def test_container_installs_the_pinned_requirements_with_torch_for_the_device_first() -> None:
    (command,) = [" ".join(words) for words in instructions() if words[0] == "RUN" and "requirements.txt" in words[-1]]
    pattern = re.search(r"grep -E '([^']+)'", command)
    pins = (PROJECT_ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert pattern and sorted(line.split("==")[0] for line in pins if re.search(pattern[1], line)) == [
        "torch",
        "torchaudio",
    ]
    assert command.index("grep -E") < command.index("-r /build/requirements.txt")


def test_container_runs_without_rights_and_writes_only_where_compose_lets_it() -> None:
    (user,) = [words[1] for words in instructions() if words[0] == "USER"]
    service = load(COMPOSE)["services"]["transcription"]
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user) and service["user"] == user
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    written_to = re.findall(r"\b(?:HOME|MODEL_CACHE_DIR|HF_HOME)=(\S+)", DOCKERFILE.read_text(encoding="utf-8"))
    writable = [mount.split(":")[0] for mount in service["tmpfs"]]
    writable += [mount.split(":")[1] for mount in service["volumes"]]
    assert sorted(writable) == ["/cache", "/tmp"] and len(written_to) == 3
    assert all(f"{path}/".startswith(tuple(f"{place}/" for place in writable)) for path in written_to)


def test_compose_keeps_uploads_within_its_temporary_space_and_waits_longer_than_the_grace() -> None:
    service = load(COMPOSE)["services"]["transcription"]
    environment = service["environment"]
    (size_mebibytes,) = re.findall(r"/tmp:size=(\d+)m", service["tmpfs"][0])
    assert environment["STREAM_MAX_BYTES"] <= environment["ADMISSION_MAX_BYTES"] < int(size_mebibytes) * MEBIBYTE
    assert int(service["stop_grace_period"].removesuffix("s")) >= environment["SHUTDOWN_GRACE_S"] + 10
    assert service["restart"] == "on-failure"


def test_compose_sets_known_settings_to_allowed_values_and_publishes_on_loopback() -> None:
    services = load(COMPOSE)["services"]
    environment = {name.lower(): str(value) for name, value in services["transcription"]["environment"].items()}
    assert set(environment) <= set(Settings.model_fields)
    given = {name: value for name, value in environment.items() if not value.startswith("${")}
    assert Settings(_env_file=None, **given).metrics_port
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_compose_builds_the_container_file_and_mounts_what_is_there() -> None:
    services = load(COMPOSE)["services"]
    build = services["transcription"]["build"]
    assert (COMPOSE.parent / build["context"]).resolve() == PROJECT_ROOT
    assert PROJECT_ROOT / build["dockerfile"] == DOCKERFILE
    mounted = {mount.split(":")[0] for service in services.values() for mount in service["volumes"]}
    ours = {(COMPOSE.parent / name).resolve() for name in mounted if name.startswith(".")}
    assert {PROMETHEUS.parent, DASHBOARD} <= ours and all(path.exists() for path in ours)
    assert {name for name in mounted if not name.startswith(".")} == set(load(COMPOSE)["volumes"])


def test_grafana_is_given_the_prometheus_and_the_dashboard_of_compose() -> None:
    services = load(COMPOSE)["services"]
    provisioning = DASHBOARD.parent / "provisioning"
    (source,) = load(provisioning / "datasources" / "prometheus.yaml")["datasources"]
    assert source["type"] == "prometheus" and source["url"].split("://")[1].split(":")[0] in services
    (provider,) = load(provisioning / "dashboards" / "transcription.yaml")["providers"]
    (mount,) = [mount for mount in services["grafana"]["volumes"] if DASHBOARD.name in mount]
    assert mount.split(":")[1].startswith(provider["options"]["path"] + "/")


def test_compose_for_the_gpu_extends_the_same_service() -> None:
    (name,) = load(COMPOSE.with_name("compose.cuda.yaml"))["services"]
    assert name in load(COMPOSE)["services"]


def health_check() -> list[str]:
    """The container's health check, as a command."""
    (words,) = [words for words in instructions() if words[0] == "HEALTHCHECK"]
    command: list[str] = json.loads(" ".join(words).partition(" CMD ")[2])
    return command
