"""Sphinx's settings, and the pages that are generated from the parser and the settings models."""

from __future__ import annotations

import re
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from milr import __version__

ROOT = Path(__file__).resolve().parents[1]

project = "milr"
author = copyright = "the milr contributors"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
suppress_warnings = ["myst.header"]  # the changelog's headings skip no level in the site's own order
myst_heading_anchors = 4
html_theme = "furo"
html_title = f"milr {__version__}"
html_show_sourcelink = False
html_static_path = ["static"]
html_css_files = ["site.css"]
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
nitpicky = False

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(((?:\.\./)+)([^)#]+)(#[^)]*)?\)")
_PAGE = re.compile(r"\[(?:[\w-]+/)*[\w-]+\.md\]\(((?:[\w.-]+/)*[\w-]+\.md)\)")
"""A link that is called by its file's name: the site calls it by the page's title."""
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`|_)")


def _write_command(name: str, command: Any) -> list[str]:
    """Return a command's section: its usage, its help and a table of its options."""
    context = command.context_class(command, info_name=f"milr {name}")
    lines = [
        f"## milr {name}",
        "",
        "```text",
        " ".join([f"milr {name}", *command.collect_usage_pieces(context)]),
        "```",
        "",
    ]
    lines += [_escape(" ".join((command.help or "").split())), "", "| option | meaning |", "|---|---|"]
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue
        flags = [*parameter.opts, *parameter.secondary_opts]
        label = ", ".join(f"`{flag}`" for flag in flags)
        if parameter.metavar:
            label += " `{}`".format(parameter.metavar.replace("|", r"\|"))
        lines.append(f"| {label} | {_escape(' '.join((parameter.help or '').split()))} |")
    return [*lines, ""]


def write_commands() -> str:
    """Return the reference of all commands, from the parser."""
    from milr.cli.main import _build_parser

    lines: list[str] = []
    for name, command in _build_parser().commands.items():
        inner = getattr(command, "commands", None)
        for below, one in (inner or {}).items():
            lines += _write_command(f"{name} {below}", one)
        if inner is None:
            lines += _write_command(name, command)
    return "\n".join(lines)


def write_settings() -> str:
    """Return a table per settings model, from the models' fields."""
    from milr.settings import METHOD_SETTINGS, MilrSettings, OneOf, RunSettings, SamplingParams, StepSettings

    methods = ", ".join(f"`{name}`" for name, model in METHOD_SETTINGS.items() if issubclass(model, StepSettings))
    parts = {
        f"Steps\n\nRead by {methods}.": StepSettings.model_fields,
        "The search over latents\n\nRead by `milr`.": {
            name: field for name, field in MilrSettings.model_fields.items() if name not in StepSettings.model_fields
        },
        "Sampling\n\nRead by every method.": SamplingParams.model_fields,
        "Run\n\nRead by the runner, for every method. A limit of None is no limit.": RunSettings.model_fields,
    }
    lines: list[str] = []
    for title, fields in parts.items():
        lines += [f"## {title}", "", "| setting | default | meaning |", "|---|---|---|"]
        for name, field in fields.items():
            choices = "; ".join(one.help for one in field.metadata if isinstance(one, OneOf))
            lines_of_text = [field.description or "", *re.split(r"; (?=[\w-]+: )", choices)]
            text = "<br>".join(_escape(" ".join(line.split())) for line in lines_of_text if line)
            lines.append(f"| `{name}` | `{field.default}` | {text} |")
        lines.append("")
    return "\n".join(lines)


def _escape(text: str) -> str:
    """Return text, escaped for the terminal's markup, as a table cell of Markdown shows it."""
    escaped = re.sub(r"([|<>*_\[\]])", r"\\\1", text.replace("\\[", "["))
    return re.sub(r"(?<![\w`-])--[a-z][a-z-]*", r"`\g<0>`", escaped)  # else two hyphens become a dash


def read_source(app: object, name: str, source: list[str]) -> None:
    """Fill generated pages; turn links to the repository's files into their names, once the files are found."""
    text = source[0]
    if name == "reference/cli":
        text = text.replace("<!-- commands -->", write_commands())
    if name == "reference/settings":
        text = text.replace("<!-- settings -->", write_settings())
    here = (ROOT / "docs" / name).parent

    def name_file(match: re.Match[str]) -> str:
        target = (here / match[3] / match[4]).resolve()
        if not target.exists():
            raise FileNotFoundError(f"docs/{name}.md links to {match[3]}{match[4]}, which does not exist")
        return match[0] if (ROOT / "docs") in target.parents else _say_file(match[2], str(target.relative_to(ROOT)))

    source[0] = _PAGE.sub(r"[](\1)", _LINK.sub(name_file, text))


def include_source(app: object, path: Path, parent: str, source: list[str]) -> None:
    """Turn links of included files, which stand beside the docs, into links that work here."""
    text = re.sub(r"\]\(docs/([^)]+)\)", r"](\1)", source[0])
    links = re.compile(r"\[([^\]]*)\]\((?!http|#|[\w/-]+\.md)([^)]+)\)")
    source[0] = links.sub(lambda match: _say_file(match[1], match[2]), text)


def _say_file(text: str, path: str) -> str:
    """Return a link's text with the path of its file, which the site does not have; the path alone if they agree."""
    return f"`{path}`" if path.endswith(text.strip("`")) else f"{text} (`{path}`)"


def leave_fields_out(app: object, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Leave the fields that `milr.field_docs` adds for `help` out: autodoc lists them itself."""
    if what == "class" and "Attributes:" in lines:
        del lines[lines.index("Attributes:") :]


def shorten_signature(
    app: object, what: str, name: str, thing: Any, options: object, given: str, returned: str
) -> tuple[str, None] | None:
    """Leave out the parameters of classes whose fields are listed below them."""
    fields = is_dataclass(thing) or hasattr(thing, "model_fields")
    return ("", None) if what == "class" and fields else None


def skip_member(app: object, what: str, name: str, thing: object, skip: bool, options: object) -> bool | None:
    """Leave pydantic's own settings out."""
    return True if name == "model_config" else None


def keep_colon(app: object, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Break an attribute's first line after its colon: napoleon takes what is before a colon for the type."""
    if what in {"attribute", "property", "data"} and lines:
        lines[:1] = re.split(r"(?<=:) ", lines[0], maxsplit=1)


def write_docstring(app: object, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Turn a docstring's single backticks into reStructuredText's double ones, and bars into plain bars."""
    for place, line in enumerate(lines):
        parts = _CODE.split(line)
        parts[0::2] = [re.sub(r"(?<!\\)([|*])", r"\\\1", part) for part in parts[0::2]]
        lines[place] = "".join(f"``{part}``" if odd % 2 else part for odd, part in enumerate(parts))


def setup(app: object) -> None:
    """Connect the above to Sphinx."""
    app.connect("source-read", read_source)  # type: ignore[attr-defined]
    app.connect("include-read", include_source)  # type: ignore[attr-defined]
    app.connect("autodoc-process-docstring", leave_fields_out, priority=100)  # type: ignore[attr-defined]
    app.connect("autodoc-process-signature", shorten_signature)  # type: ignore[attr-defined]
    app.connect("autodoc-skip-member", skip_member)  # type: ignore[attr-defined]
    app.connect("autodoc-process-docstring", keep_colon, priority=200)  # type: ignore[attr-defined]
    app.connect("autodoc-process-docstring", write_docstring, priority=900)  # type: ignore[attr-defined]
