import json
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from PIL import Image

from prunella.errors import UserError
from prunella.export import hub
from prunella.export.hub import push_to_hub, write_hub_folder
from prunella.export.license import inherit_license
from prunella.tracking.datasets import read_output_hashes

BUNDLED = {"source": "bundled", "family": "sd", "unet": {}, "path": "x"}


def entry(params: int, error: float) -> dict:
    estimate = {"value": error, "n": 7, "low": error - 0.01, "high": error + 0.01}
    figures = {"params": params, "latency_ms_p50": 12.0, "output_error": error, "output_error_estimate": estimate}
    return figures | {"composition": {"value": 0.25, "n": 64, "low": 0.16, "high": 0.37}}


@pytest.fixture
def run(tmp_path, monkeypatch, pruned_tiny, teacher):
    """A folder as a run leaves it: a distilled student, its reports, its teacher."""
    monkeypatch.chdir(tmp_path)
    student = shutil.copytree(pruned_tiny, tmp_path / "models" / "distilled" / "sd-tiny")
    (student / "best").mkdir()
    (student / "best" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    pinned = {"source": "folder", "path": str(teacher), "family": "sd", "unet": {}}
    pinned["files"] = {"unet/diffusion_pytorch_model.safetensors": "5ada"}
    (tmp_path / "models" / "teacher.json").write_text(json.dumps(pinned))
    (tmp_path / "reports" / "images").mkdir(parents=True)
    Image.new("RGB", (3, 5)).save(tmp_path / "reports" / "images" / "sd-tiny.png")
    (tmp_path / "reports" / "distill").mkdir()
    told = {"steps": 1234, "images_per_second": 3.5}
    (tmp_path / "reports" / "distill" / "sd-tiny.json").write_text(json.dumps(told))
    (tmp_path / "reports" / "filter.json").write_text(json.dumps({"read": 3000, "kept": 2000}))
    report = {
        "hardware": {"device": "cpu", "cpu": "A processor", "threads": 2},
        "settings": {"precision": "fp32", "num_inference_steps": 2, "guidance_scale": 4.0, "prompts": 64},
        "models": {"teacher": entry(1_000_000, 0.0), "sd-tiny/distilled": entry(380_000, 0.0625)},
    }
    (tmp_path / "reports" / "benchmark.json").write_text(json.dumps(report))
    lock = {
        "stages": {
            "distill@sd-tiny": {"outs": [{"path": "models/distilled/sd-tiny", "hash": "md5", "md5": "77aa.dir"}]}
        }
    }
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump(lock))
    return student.relative_to(tmp_path)


def test_a_folder_for_the_hub_has_a_card_of_the_runs_own_figures(run, tmp_path):
    names = write_hub_folder(run, tmp_path / "out", None, None)
    assert {"README.md", "model_index.json", "sd-tiny.png", "unet/plan.yaml"} <= set(names)
    assert not any("best" in name for name in names)
    text = (tmp_path / "out" / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == "creativeml-openrail-m" and front["library_name"] == "diffusers"
    assert "380,000 of the teacher's 1,000,000 parameters (38.0 %)" in text
    assert re.search(r"\| .*distilled.* \|.*0\.062", text)
    for said in ("2,000 captioned pictures", "1,234 steps", "77aa.dir", "5ada", "attachment A", "A processor"):
        assert said in text
    assert "Fine-tuning" not in text and str(tmp_path) not in text.replace(str(tmp_path / "out"), "")


def test_the_cards_code_draws_with_stock_diffusers(run, tmp_path):
    write_hub_folder(run, tmp_path / "out", None, "apache-2.0")
    text = (tmp_path / "out" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    command = [sys.executable, "-W", "ignore", "-c", code.replace("4.0)", "4.0, width=32, height=32)")]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, env={"PATH": "", "HOME": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size == (32, 32)


def test_a_folder_of_something_else_is_not_overwritten(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="mine is there already"):
        write_hub_folder(run, tmp_path / "mine", None, None)
    assert (tmp_path / "mine" / "thesis.tex").is_file()
    write_hub_folder(run, tmp_path / "out", None, None)
    write_hub_folder(run, tmp_path / "out", "me/small", None)  # again
    assert 'from_pretrained("me/small")' in (tmp_path / "out" / "README.md").read_text()


def test_a_student_inherits_its_teachers_licence(tmp_path):
    assert inherit_license(BUNDLED).id == "apache-2.0"
    assert inherit_license(BUNDLED, "mit").id == "mit" and not inherit_license(BUNDLED, "mit").restricts
    hub_model = {"source": "hub", "family": "sd", "unet": {}}
    assert inherit_license(hub_model | {"id": "SG161222/Realistic_Vision_V4.0"})[::4] == ("creativeml-openrail-m", True)
    assert inherit_license(hub_model | {"id": "stabilityai/stable-diffusion-2-1"})[::4] == ("openrail++", True)
    assert inherit_license(hub_model | {"id": "someone/else"})[::4] == ("creativeml-openrail-m", False)
    two = {"source": "folder", "path": str(tmp_path), "family": "sd", "unet": {"use_linear_projection": True}}
    assert inherit_license(two)[::4] == ("openrail++", False)
    (tmp_path / "README.md").write_text("---\nlanguage: en\nlicense: cc-by-4.0\n---\n# A model\n")
    assert inherit_license(two)[::4] == ("cc-by-4.0", True)


def test_hashes_are_dvcs(run):
    assert read_output_hashes() == {"models/distilled/sd-tiny": "77aa.dir"}


class Api:
    """Stands for the Hub."""

    def __init__(self, error: Exception | None = None):
        self.error, self.calls = error, []

    def create_repo(self, *words, **options):
        if self.error:
            raise self.error
        self.calls.append(("create", words, options))

    def upload_folder(self, **options):
        self.calls.append(("upload", options))
        return "https://huggingface.example/me/small/commit/1"


def test_a_push_is_one_upload(tmp_path, monkeypatch):
    api = Api()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: api)
    assert push_to_hub(tmp_path, "me/small", private=True).startswith("https://")
    assert [call[0] for call in api.calls] == ["create", "upload"]
    assert api.calls[0][2] == {"private": True, "exist_ok": True} and api.calls[1][1]["folder_path"] == tmp_path


def test_a_push_that_fails_says_how_to_log_in_and_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_SECRET")
    for error, said in ((OSError("offline hf_SECRET"), "cannot be reached"),):
        monkeypatch.setattr("huggingface_hub.HfApi", lambda error=error: Api(error))
        with pytest.raises(UserError, match=said) as caught:
            push_to_hub(tmp_path, "me/small", private=False)
        assert "SECRET" not in str(caught.value)
    assert "hf auth login" in hub.LOGIN_HINT
