import pytest
from commands import refused, said
from conftest import ROOT

from prunella.params import read_params
from prunella.params.recipes import DEFAULTS
from prunella.tracking.training_estimate import TrainingEstimate


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder of its own, as a fresh clone has it; the terminal is not one."""
    for name in ("src", "data", "dvc.yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "params.yaml").write_bytes(DEFAULTS.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    monkeypatch.setattr(TrainingEstimate, "print_summary", lambda estimate: print(estimate.title))


@pytest.fixture
def flags(teacher, pictures) -> dict[str, str]:
    return {"teacher": str(teacher), "images": str(pictures), "student": "sd-tiny", "gpu-memory": "24"}


def line(flags: dict[str, str], *more: str) -> list[str]:
    return ["init", *(word for name, value in flags.items() for word in (f"--{name}", value)), *more]


def test_the_committed_default_is_replaced_by_a_file_that_check_accepts(capsys, flags, tmp_path):
    text = said(capsys, *line(flags))
    assert "sd-tiny of " in text and "29 pairs" in text
    check, run = text.splitlines()[-2:]
    assert check.endswith("prunella check") and run.endswith("dvc repro")
    params = read_params()
    assert (params.teacher.path, params.filter.path) == (flags["teacher"], flags["images"])
    assert (params.distill.steps, params.encode.heldout, params.encode.resolution) == (125_000, 2, 32)
    assert "params.yaml: all keys known" in said(capsys, "check")


def test_another_file_is_moved_before_it_runs(capsys, flags):
    text = said(capsys, *line(flags, "--out", "my own.yaml", "--caption-keywords", "heart", "ring"))
    assert "prunella check 'my own.yaml'" in text and "cp 'my own.yaml' params.yaml && " in text
    assert "on captions with heart, ring" in text and "no dvc.yaml" not in text
    assert read_params("my own.yaml").finetune.caption_keywords == ["heart", "ring"]


def test_what_someone_has_changed_is_kept_without_force(capsys, flags, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("seed: 3\n")
    assert refused(*line(flags)).startswith("prunella: params.yaml: ") and path.read_text() == "seed: 3\n"
    (tmp_path / "dvc.yaml").unlink()
    assert "no dvc.yaml is here" in said(capsys, *line(flags, "--force"))
    assert read_params(path).students == ["sd-tiny"]
    assert "is a folder" in refused(*line(flags, "--out", str(tmp_path)))


@pytest.mark.parametrize(
    ("flag", "value", "what"),
    [
        ("teacher", "/nowhere", "--teacher: /nowhere: there is no such folder or file"),
        ("images", "/nowhere", "--images: /nowhere: there is no such folder"),
        ("student", "sd-tny", "did you mean 'sd-tiny'?"),
        ("student", "ssd-1b", "ssd-1b is made of Stable Diffusion XL"),
        ("gpu-memory", "much", "--gpu-memory: 'much'; a number of GB"),
        ("gpu-memory", "nan", "--gpu-memory: 'nan'; a number of GB"),
        ("gpu-memory", "0", "--gpu-memory: '0'; a number of GB"),
    ],
)
def test_a_wrong_answer_gives_one_line_and_nothing_is_written(flag, value, what, flags, tmp_path):
    message = refused(*line(flags | {flag: value}))
    assert what in message and "\n" not in message
    assert (tmp_path / "params.yaml").read_bytes() == DEFAULTS.read_bytes()


def test_without_a_terminal_every_missing_answer_is_named(flags):
    assert refused("init", "--teacher", flags["teacher"]).startswith("prunella: --images, --student: missing")
    del flags["gpu-memory"]
    assert "no GPU is seen here" in refused(*line(flags))


def test_a_terminal_is_asked_until_it_has_answered(capsys, flags, monkeypatch):
    answers = iter([flags["teacher"], "/nowhere", flags["images"], "ssd-1b", "sd-tiny", "24"])
    asked = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or next(answers))
    text = said(capsys, "init")
    assert len(asked) == 6 and "sd-tiny" in asked[-2] and "ssd-1b" not in asked[-2]  # the family's alone
    assert "/nowhere: there is no such folder" in text and "ssd-1b is made of" in text
    assert read_params().students == ["sd-tiny"]


def test_a_terminal_that_ends_leaves_all_as_it_was(monkeypatch, tmp_path):
    def ended(question):
        raise EOFError

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", ended)
    assert "nothing is written" in refused("init")
    assert (tmp_path / "params.yaml").read_bytes() == DEFAULTS.read_bytes()


def test_of_a_hub_model_that_is_not_here_the_student_tells_the_family(capsys, flags, monkeypatch):
    sizes = init_sizes()
    monkeypatch.setattr("prunella.cli.wizard.params_file.fit_to_gpu", lambda *_: sizes)
    text = said(capsys, *line(flags | {"teacher": "someone/of-mine", "student": "koala-700m"}))
    assert "someone/of-mine is not downloaded: taken for " in text and "Stable Diffusion XL, 1024 pixels" in text
    params = read_params()
    assert (params.teacher.source, params.teacher.id, params.encode.resolution) == ("hub", "someone/of-mine", 1024)
    assert "all keys known" in said(capsys, "check")


def init_sizes():
    from prunella.cli.wizard.gpu_fit import GpuFit

    return GpuFit(2, {}, 20.0)
