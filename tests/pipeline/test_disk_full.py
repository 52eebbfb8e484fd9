import errno
import os
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from prunella.pipeline.disk_full import explain_disk_full
from prunella.pipeline.stage import run_stage

TORCH = "[enforce fail at inline_container.cc:672] . unexpected pos 27725760 vs 27725648"
RUST = "Error while serializing: I/O error: No space left on device (os error 28)"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "x"),
        RuntimeError(TORCH),
        Exception(RUST),
    ],
)
def test_a_full_disk_is_known_by_any_of_its_errors(error, tmp_path):
    assert f"no room left at {tmp_path} (" in explain_disk_full(error, [tmp_path / "work" / "a.pt"])


def test_the_file_that_the_error_names_says_where(tmp_path):
    (tmp_path / "a").mkdir()
    error = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "a" / "b.json"))
    assert f"no room left at {tmp_path / 'a'} (" in explain_disk_full(error, [tmp_path])


def test_an_error_on_the_way_out_does_not_hide_it(tmp_path):
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise KeyError("later") from None
    except KeyError as error:
        assert explain_disk_full(error, [tmp_path])


def test_other_errors_are_none(tmp_path):
    assert explain_disk_full(OSError(errno.EIO, "x"), [tmp_path]) is None
    assert explain_disk_full(RuntimeError("shapes differ: 28"), [tmp_path]) is None


def test_a_stage_says_so_in_one_line_and_leaves_no_half_of_its_outs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setattr(sys, "argv", ["x", "--out", "models/a.b", "--report", "r.json"])
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    with pytest.raises(SystemExit) as ended, run_stage("toy", "A stage.", None, "out", "report"):
        Path("models/a.b.half").mkdir(parents=True)
        for half in ("models/a.b.half/unet", "r.half"):
            Path(half).write_text("half")
        raise RuntimeError(TORCH)
    assert ended.value.code.startswith("toy: no room left at ")
    assert sorted(os.listdir(tmp_path)) == ["models", "params.yaml"] and not os.listdir("models")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a file that is always full")
def test_the_real_error_is_known(tmp_path):
    with pytest.raises(OSError) as full, open("/dev/full", "w") as file:
        file.write("x")
        file.flush()
    assert explain_disk_full(full.value, [tmp_path])
