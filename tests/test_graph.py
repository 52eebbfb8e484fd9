"""The real graph, in temporary clones of this repository, on toy parameters: one whole run, copies of which change.

Where only the set of stages that would run again is asked, DVC is asked (`--dry`) and nothing runs.
"""

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grimp
import pytest
import yaml
from conftest import ROOT
from inprocess import commands
from toygraph import DVC, ENVIRONMENT, committed, run, stages_run, started

STUDENTS = ["sd-small", "sd-tiny"]
STAGES = set(commands(STUDENTS))


def to_run(folder: Path, *targets: str) -> set[str]:
    """The stages that `dvc repro` would run, and all that depends on them, as if every out came out different."""
    return stages_run(run(folder, DVC, "repro", "--dry", "--force-downstream", *targets))


def changed(folder: Path, section: str, key: str, value) -> None:
    path = folder / "params.yaml"
    content = yaml.safe_load(path.read_text())
    content[section][key] = value
    path.write_text(yaml.safe_dump(content))


@pytest.fixture(scope="module")
def graph(teacher, pictures, tmp_path_factory) -> Path:
    """The clone where the whole graph has run; tests work on copies of it."""
    clone, process, printed = started(teacher, pictures, tmp_path_factory.mktemp("graph"))
    assert process.wait() == 0, printed.read_text()
    assert stages_run(printed.read_text()) == STAGES
    committed(clone)
    return clone


@pytest.fixture
def clone(graph, tmp_path) -> Path:
    return Path(shutil.copytree(graph, tmp_path / "clone", symlinks=True))


@pytest.mark.graph
def test_every_model_and_report_is_there(graph):
    for stage in ("pruned", "distilled", "finetuned"):
        for student in STUDENTS:
            assert (graph / "models" / stage / student / "model_index.json").is_file()
    models = json.loads((graph / "reports" / "benchmark.json").read_text())["models"]
    assert len(models) == 7
    assert run(graph, "git", "status", "--porcelain") == ""


@pytest.mark.graph
def test_a_second_repro_runs_nothing(clone):
    assert stages_run(run(clone, DVC, "repro")) == set()


@pytest.mark.graph
def test_a_colleague_pulls_what_was_pushed_and_runs_nothing(clone, tmp_path):
    """docs/team.md, with a folder that both can reach."""
    run(clone, DVC, "remote", "add", "--default", "store", tmp_path / "store")
    committed(clone)
    run(clone, DVC, "push")
    shutil.rmtree(clone / ".dvc" / "cache")  # so that the remote alone has it
    theirs = tmp_path / "theirs"
    run(tmp_path, "git", "clone", "--quiet", clone, theirs)
    run(theirs, DVC, "pull")
    assert stages_run(run(theirs, DVC, "repro")) == set() and run(theirs, "git", "status", "--porcelain") == ""
    weights = Path("models", "finetuned", "sd-tiny", "unet", "diffusion_pytorch_model.safetensors")
    assert (theirs / weights).read_bytes() == (clone / weights).read_bytes()
    assert "sd-tiny" in (theirs / "reports" / "index.html").read_text()


def promoted(clone: Path) -> str:
    """What `prunella promote sd-tiny --dry-run` says."""
    command = [sys.executable, "-m", "prunella", "promote", "sd-tiny", "--dry-run"]
    kept = ENVIRONMENT | {"PYTHONPATH": str(clone / "src")}
    done = subprocess.run(command, cwd=clone, env=kept, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.graph
def test_figures_of_other_weights_promote_nothing(clone):
    gate = {"metric": "latency_ms_p50", "min": None, "max": 1000, "relative_to_teacher": True}
    changed(clone, "promote", "gates", [gate])
    assert promoted(clone).endswith("at most 1000.0 is asked: holds\n")
    weights = clone / "models" / "finetuned" / "sd-tiny" / "unet" / "diffusion_pytorch_model.safetensors"
    content = weights.read_bytes()
    weights.unlink()  # a link into DVC's cache
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    said = promoted(clone)
    assert "holds" not in said and "(models/finetuned/sd-tiny: modified)" in said


@pytest.mark.graph
def test_a_weight_reruns_what_learns(clone):
    changed(clone, "distill", "feature_weight", 1.0)
    again = ("distill", "finetune", "draw", "score")
    learning = {f"{stage}@{student}" for stage in again for student in STUDENTS}
    assert to_run(clone) == learning | {"benchmark"}


@pytest.mark.graph
def test_a_new_metric_only_scores(clone):
    changed(clone, "benchmark", "metrics", ["composition"])
    assert to_run(clone) == {"score_teacher", *(f"score@{student}" for student in STUDENTS), "benchmark"}


@pytest.mark.graph
def test_a_changed_student_redraws_only_itself(clone):
    scheduler = clone / "models" / "finetuned" / "sd-tiny" / "scheduler" / "scheduler_config.json"
    text = scheduler.read_text()
    scheduler.unlink()  # a link into DVC's cache
    scheduler.write_text(text + " ")
    assert to_run(clone) == {"finetune@sd-tiny", "draw@sd-tiny", "score@sd-tiny", "benchmark"}


@pytest.mark.graph
def test_fewer_students_rerun_the_benchmark_only(clone):
    content = yaml.safe_load((clone / "params.yaml").read_text())
    (clone / "params.yaml").write_text(yaml.safe_dump(content | {"students": ["sd-tiny"]}))
    assert stages_run(run(clone, DVC, "repro")) == {"check", "check_pairs", "latency", "cost", "benchmark"}
    models = json.loads((clone / "reports" / "benchmark.json").read_text())["models"]
    assert list(models) == ["teacher", "sd-tiny/pruned", "sd-tiny/distilled", "sd-tiny/finetuned"]
    assert "sd-small" not in (clone / "reports" / "index.html").read_text()


@contextmanager
def replaced(path: Path, old: str, new: str) -> Iterator[None]:
    """The text file has `new` for `old` while this lasts."""
    sound = path.read_text()
    assert old in sound
    path.write_text(sound.replace(old, new))
    try:
        yield
    finally:
        path.write_text(sound)


@pytest.mark.graph
def test_a_changed_file_of_teacher_or_data_reruns_what_depends_on_it(clone):
    params = yaml.safe_load((clone / "params.yaml").read_text())
    some = ("encode", "prune@sd-tiny")
    with replaced(Path(params["teacher"]["path"]) / "scheduler" / "scheduler_config.json", "0.012", "0.0121"):
        planning = {"latency", "plan@sd-tiny", "prune@sd-tiny"}  # as if the plan came out different
        assert to_run(clone, *some) == {"teacher", "check_pairs", "encode"} | planning
    with replaced(Path(params["filter"]["path"]) / "metadata.jsonl", "small", "tiny"):
        assert to_run(clone, *some) == {"filter", "check_pairs", "encode"} | planning


@contextmanager
def commented(path: Path) -> Iterator[None]:
    """The text file has another line at its end while this lasts."""
    sound = path.read_text()
    path.write_text(f"{sound}# a comment\n")
    try:
        yield
    finally:
        path.write_text(sound)


@pytest.mark.graph
def test_what_observes_reruns_nothing_and_a_loss_what_learns(clone):
    package = clone / "src" / "prunella"
    with (
        commented(package / "params" / "schema.py"),
        commented(package / "tracking" / "run.py"),
        commented(package / "tracking" / "training_callback.py"),
        commented(package / "cli" / "main.py"),
        commented(package / "pipeline" / "stage.py"),
    ):
        assert to_run(clone) == set()
    with commented(package / "reporting" / "templates" / "index.html.j2"):
        assert to_run(clone) == {"benchmark"}
    with commented(package / "training" / "losses.py"):
        # A chosen student may change.
        before = {"check", "teacher", "phases", "filter", "check_pairs", "encode", "draw_teacher"}
        assert to_run(clone) == STAGES - before


@pytest.mark.graph
def test_new_pairs_rerun_no_prune_of_a_named_student(clone):
    changed(clone, "plan", "candidates", 2)
    assert stages_run(run(clone, DVC, "repro", "prune@sd-tiny")) == {"latency", "plan@sd-tiny"}


def told(clone: Path) -> dict[str, str]:
    """Tags of the newest teacher run in the clone's MLflow store."""
    from mlflow import MlflowClient

    from prunella.tracking.run import DEFAULT_EXPERIMENT

    client = MlflowClient(f"sqlite:///{clone / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(DEFAULT_EXPERIMENT).experiment_id
    return client.search_runs([experiment], "tags.stage = 'teacher'", order_by=["attributes.start_time DESC"])[
        0
    ].data.tags


@pytest.mark.graph
@pytest.mark.parametrize("way", ["repro", "activated", "exp", "temp"])
def test_interpreter_code_and_store_are_the_same_whichever_way_dvc_runs(clone, way):
    binaries, bare = str(DVC.parent), "/usr/local/bin:/usr/bin:/bin"
    command, path = {
        "repro": ([DVC, "repro"], bare),
        "activated": (["dvc", "repro"], f"{binaries}:{bare}"),
        "exp": ([DVC, "exp", "run"], bare),
        "temp": ([DVC, "exp", "run", "--temp"], bare),
    }[way]
    changed(clone, "distill", "steps", 1)  # so that an experiment has something to say
    run(clone, *command, "--force", "--single-item", "teacher", PATH=path)
    tags = told(clone)
    assert Path(tags["interpreter"]).parent == Path(sys.executable).parent
    code = Path(tags["code"])
    assert code.is_relative_to(clone) and code.parts[-2:] == ("src", "prunella")
    assert (code == clone / "src" / "prunella") == (way != "temp")
    assert ("dvc.experiment" in tags) == (way in ("exp", "temp"))


@pytest.mark.graph
def test_dvc_shows_figures_curves_and_experiments(clone):
    metrics = run(clone, DVC, "metrics", "show", "--md")
    assert "sd-tiny.output_error_distilled" in metrics and "teacher.params_m" in metrics
    experiments = run(clone, DVC, "exp", "show", "--md", "--no-pager")
    assert "distill.feature_weight" in experiments and "sd-small.output_error_pruned" in experiments
    page = Path(run(clone, DVC, "plots", "show").strip().splitlines()[-1].removeprefix("file://")).read_text()
    for shown in ("distill sd-tiny: training loss", "finetune sd-small: held-out task error", "sd-tiny.png"):
        assert shown in page


@pytest.mark.graph
def test_a_misspelt_override_is_refused(clone):
    with pytest.raises(AssertionError, match="feature_wieght"):
        run(clone, DVC, "exp", "run", "-S", "distill.feature_wieght=1.0")


# What dvc.yaml says against what the code imports.

GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


@pytest.fixture(scope="module")
def imports():
    return grimp.build_graph("prunella", cache_dir=None)


RESULT_ROOMS = (
    "compute",
    "data",
    "encoding",
    "evaluation",
    "latents",
    "models",
    "planning",
    "profiling",
    "pruning",
    "sampling",
    "scenes",
    "stats",
    "training",
)


def files(module: str) -> Path:
    stem = ROOT / "src" / Path(*module.split("."))
    return stem.with_suffix(".py") if stem.with_suffix(".py").is_file() else stem / "__init__.py"


def script(stage: str) -> Path:
    """The file that a stage runs; two stages may run the same."""
    command = GRAPH[stage].get("do", GRAPH[stage])["cmd"]
    return ROOT / next(word for word in command.split() if word.endswith(".py"))


def result_files(stage: str, imports) -> set[str]:
    """Files of the result rooms that a stage reaches through result rooms; observers are handed in and do not count."""
    tree = ast.parse(script(stage).read_text())
    waiting = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    reached: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in reached or not name.startswith(tuple(f"prunella.{room}" for room in RESULT_ROOMS)):
            continue
        reached.add(name)
        waiting |= imports.find_modules_directly_imported_by(name)
    found = {files(name) for name in reached}
    return {path.relative_to(ROOT).as_posix() for path in found if path.stat().st_size}


def code_deps(stage: str) -> list[str]:
    """The code that dvc.yaml names: files, or folders of them."""
    found = GRAPH[stage].get("do", GRAPH[stage])["deps"]
    return [dep for dep in found if dep.startswith(("src/", "stages/"))]


@pytest.mark.parametrize("stage", sorted(set(GRAPH) - {"miniature"}))
def test_a_stage_depends_on_every_result_module_that_it_imports(stage, imports):
    deps = code_deps(stage)
    missing = {
        file
        for file in result_files(stage, imports)
        if not any(file == dep or file.startswith(f"{dep}/") for dep in deps)
    }
    assert not missing
    assert script(stage).relative_to(ROOT).as_posix() in deps


@pytest.mark.parametrize("stage", sorted(set(GRAPH) - {"miniature", "benchmark"}))
def test_no_stage_depends_on_what_observes_it(stage):
    observers = (
        "tracking",
        "reporting",
        "cli",
        "pipeline",
        "verify",
        "bench",
        "miniature",
        "params",
        "errors.py",
        "storage",
    )
    seen = [dep for dep in code_deps(stage) if dep.startswith(tuple(f"src/prunella/{room}" for room in observers))]
    assert not seen and "stages/python" not in code_deps(stage)


def test_the_graph_fits_a_look():
    assert len((ROOT / "dvc.yaml").read_text().splitlines()) < 342


@pytest.mark.parametrize("stage", sorted(set(GRAPH) - {"miniature", "check"}))
def test_dvc_yaml_lists_the_sections_that_a_stage_reads(stage):
    """A section, or keys of it; `watch` decides no result, and `runtime` that of costs alone."""
    read = {
        node.attr
        for node in ast.walk(ast.parse(script(stage).read_text()))
        if isinstance(node, ast.Attribute)
        and (
            (isinstance(node.value, ast.Attribute) and node.value.attr == "params")
            or ast.unparse(node.value) == "params"
        )
    }
    needed = read - {"watch"} - ({"runtime"} if stage != "cost" else set())
    if stage.startswith(("own_", "base_")):  # where an entry of finetune.data stands for filter and encode
        needed = needed - {"filter", "encode"} | {"finetune"}
    listed = {key.split(".")[0] for key in GRAPH[stage].get("do", GRAPH[stage]).get("params", [])}
    assert needed <= listed, (needed, listed)


def test_stages_are_of_forty_lines_at_most():
    for path in (ROOT / "stages").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 40, path
