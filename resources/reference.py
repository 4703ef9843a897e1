"""Documents the settings from their class: `python -m resources.reference` writes both files."""

from collections.abc import Iterator
from pathlib import Path

from resources.config import PROJECT_ROOT, SECTIONS, Settings

EXAMPLE_FILE = PROJECT_ROOT / "resources" / ".env.example"
DOCUMENT_FILE = PROJECT_ROOT / "docs" / "configuration.md"

_EXAMPLE_HEAD = """# Every setting of the service with its default. Copy to `.env` in the project's root and edit.
# Priority: command line flags > environment variables > .env > defaults. An empty value means the default.
# Written by `python -m resources.reference` from resources/config.py.
"""
_DOCUMENT_HEAD = """# Configuration

Sources by priority: command line flags, environment variables, the file `.env` in the project's root (copy
`resources/.env.example`), defaults. An empty value means the default. A value that is not allowed stops the start with
one line that names the setting, its value and what is allowed.

This page and `resources/.env.example` are written by `python -m resources.reference` from `resources/config.py`.
"""


def example() -> str:
    """The text of resources/.env.example."""
    lines = [_EXAMPLE_HEAD.rstrip()]
    for name, section in _settings():
        lines += ["", f"# --- {section} ---"] if section else []
        lines += [f"# {_description(name).replace('`', '')}", f"{name.upper()}={_default(name)}"]
    return "\n".join(lines) + "\n"


def document() -> str:
    """The text of docs/configuration.md."""
    lines = [_DOCUMENT_HEAD.rstrip()]
    for name, section in _settings():
        lines += ["", f"## {section}", "", "| setting | default | meaning |", "|---|---|---|"] if section else []
        default = _default(name)
        lines.append(f"| `{name.upper()}` | {f'`{default}`' if default else ''} | {_description(name)} |")
    return "\n".join(lines) + "\n"


def _settings() -> Iterator[tuple[str, str | None]]:
    """Field names in order, each with the title of the section that it begins."""
    return ((name, SECTIONS.get(name)) for name in Settings.model_fields)


def _description(name: str) -> str:
    description = Settings.model_fields[name].description
    assert description, f"{name} has no description"
    return description


def _default(name: str) -> str:
    """The default as it is written in a .env file; empty where it is nothing or depends on the machine."""
    value = Settings.model_fields[name].default
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or isinstance(value, Path | tuple):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Write both files."""
    EXAMPLE_FILE.write_text(example(), encoding="utf-8")
    DOCUMENT_FILE.write_text(document(), encoding="utf-8")


if __name__ == "__main__":
    main()
