"""Write the comments of params.yaml and docs/parameters.md from the descriptions of the fields: `make parameters`.

python docs/parameters.py            # write
python docs/parameters.py --check    # exit status 1 if a file is not as it would be written
"""

import re
import sys
import textwrap
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from prunella.params import Params, load_shipped_defaults

ROOT = Path(__file__).resolve().parents[1]
YAML_FILES = [ROOT / "params.yaml", ROOT / "src" / "prunella" / "defaults.yaml"]
PAGE = ROOT / "docs" / "parameters.md"
COMMENT_COLUMN = 28
LINE_WIDTH = 120
KEY_LINE = re.compile(r"(?P<indent> *)(?P<key>[A-Za-z_]\w*):(?P<value>.*)")
HEAD = """# Parameters

Every key of `params.yaml` with its shipped default. This page and the comments of `params.yaml` are written from
the descriptions of the fields in `src/prunella/params/` by `make parameters`.
"""


def find_field(path: list[str], model: type[BaseModel] = Params) -> FieldInfo | None:
    """The field at a path of keys like ["distill", "steps"]; None for a name that the user chooses."""
    field: FieldInfo | None = None
    for key in path:
        if model is None or key not in model.model_fields:
            return None
        field = model.model_fields[key]
        model = section_of(field)
    return field


def section_of(field: FieldInfo) -> Any:
    """The model of a field that is a section by itself, else None."""
    return field.annotation if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel) else None


def comment_yaml(text: str) -> str:
    """A parameter file with each key's description behind it; the comment before the first key stays as it is."""
    lines, path = [], []
    for line in text.splitlines():
        match = KEY_LINE.fullmatch(line)
        if not match:
            is_comment = line.lstrip().startswith("#")
            if not is_comment or not path:
                lines.append(line)
            continue
        path = [*path[: len(match["indent"]) // 2], match["key"]]
        field = find_field(path)
        content = f"{match['indent']}{match['key']}:{strip_comment(match['value'])}"
        lines += add_comment(content, field.description) if field and field.description else [line]
    return "\n".join(lines) + "\n"


def strip_comment(value: str) -> str:
    """The value of a YAML line without the comment behind it."""
    return re.sub(r"\s+#.*", "", value).rstrip()


def add_comment(content: str, description: str) -> list[str]:
    """A line with its description, which goes on in lines of its own where it is long."""
    start = max(COMMENT_COLUMN, len(content) + 1)
    rows = textwrap.wrap(description, LINE_WIDTH - start - 2, break_on_hyphens=False, break_long_words=False)
    if len(content) >= 60:  # too little room behind it
        rows = textwrap.wrap(description, LINE_WIDTH - COMMENT_COLUMN - 2, break_on_hyphens=False)
        return [*(f"{' ' * (len(content) - len(content.lstrip()))}# {row}" for row in rows), content]
    return [f"{content:<{start}}# {rows[0]}", *(f"{'':<{start}}# {row}" for row in rows[1:])]


def list_rows(fields: dict[str, FieldInfo], defaults: dict[str, Any] | None, prefix: str = "") -> list[str]:
    """A row of the page for each field, those of its parts and entries included; entries have no `defaults`."""
    rows = []
    for name, field in fields.items():
        part, default = section_of(field), None if defaults is None else defaults[name]
        shown = " " if part or defaults is None else f" `{format_default(default)}` "
        rows.append(f"| `{prefix}{name}` |{shown}| {escape(field.description or '')} |")
        if part:
            rows += list_rows(part.model_fields, default, f"{prefix}{name}.")
        elif entry := entry_model(field):
            rows += list_rows(entry.model_fields, None, f"{prefix}{name}.*.")
    return rows


def entry_model(field: FieldInfo) -> type[BaseModel] | None:
    """The model of the entries of a field that is a list or a dict of them."""
    return next(
        (arg for arg in get_args(field.annotation) if isinstance(arg, type) and issubclass(arg, BaseModel)), None
    )


def format_default(value: Any) -> str:
    """A default as YAML has it in a line; of a set of entries that it is not empty."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if (isinstance(value, dict) and value) or (isinstance(value, list) and value and isinstance(value[0], dict)):
        return "see params.yaml"
    return str(value).replace("'", "")


def escape(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("*", "\\*")


def build_page() -> str:
    """The page with a table for each section."""
    defaults, parts = load_shipped_defaults(), [HEAD]
    top = {name: field for name, field in Params.model_fields.items() if not section_of(field)}
    head = ["| key | default | description |", "|---|---|---|"]
    parts.append("\n".join(["## Top level", "", *head, *list_rows(top, defaults), ""]))
    for name, field in Params.model_fields.items():
        if part := section_of(field):
            table = list_rows(part.model_fields, defaults[name])
            parts.append("\n".join([f"## {name}", "", escape(field.description or ""), "", *head, *table, ""]))
    return "\n".join(parts)


def main(check: bool) -> int:
    """Write the files, or with `check` only say which of them are not as they would be written."""
    wanted = {path: comment_yaml(path.read_text(encoding="utf-8")) for path in YAML_FILES} | {PAGE: build_page()}
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{path.relative_to(ROOT)}: {'is not as `make parameters` writes it' if check else 'written'}")
        if not check:
            path.write_text(wanted[path], encoding="utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
