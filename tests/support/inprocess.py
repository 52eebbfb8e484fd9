"""The graph's commands, as dvc.yaml has them, run one after another in this process: no DVC, no start-up per stage."""

import importlib.util
import shlex
from pathlib import Path

import yaml
from conftest import ROOT, toy_params


def commands(students: list[str], bases: dict[str, str] | None = None) -> dict[str, list[str]]:
    """Stage → words of its command, in an order that its dependencies allow (dvc.yaml's own).

    `bases` are models of others with the name of the set that each learns from.
    """
    bases = bases or {}
    items = {
        "${students}": {name: {"${item}": name} for name in students},
        "${finetune.base}": {name: {"${key}": name, "${item.data}": own} for name, own in bases.items()},
        "${finetune.data}": {own: {"${key}": own} for own in bases.values()},
    }
    words = {}
    for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items():
        if stage.get("frozen"):
            continue
        if "foreach" in stage:  # over students, or over a section that is empty by default
            for item, known in items.get(stage["foreach"], {}).items():
                words[f"{name}@{item}"] = shlex.split(_filled(stage["do"]["cmd"], known))
        else:
            words[name] = shlex.split(stage["cmd"])
    return words


def _filled(command: str, known: dict[str, str]) -> str:
    """A command of an item, on the main data and distilled students, as by default."""
    for template, value in ({"${finetune.latents}": "data/latents", "${finetune.stage}": "distilled"} | known).items():
        command = command.replace(template, value)
    return command


def reproduced(folder: Path, teacher: Path, pictures: Path, recipe: str, monkeypatch, **tuning) -> list[str]:
    """Run a recipe's whole graph at toy size in `folder`; the names of its stages. `tuning` goes into `finetune`."""
    content = toy_params(teacher, pictures, recipe)
    content["finetune"] |= {"caption_keywords": []} | tuning
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    (folder / "src").symlink_to(ROOT / "src")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    bases = {name: base["data"] for name, base in content["finetune"].get("base", {}).items()}
    stages = commands(content["students"], bases)
    for words in stages.values():
        assert words[:2] == ["sh", "stages/python"]
        run(words[2:])
    return list(stages)


def run(words: list[str]) -> None:
    """Call the `main` of a stage's script, the first of `words`, with the others."""
    spec = importlib.util.spec_from_file_location(f"stage_{Path(words[0]).stem}", ROOT / words[0])
    stage = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stage)
    stage.main(words[1:])
