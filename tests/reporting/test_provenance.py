import subprocess

from prunella.reporting.provenance import collect_provenance


def test_the_commit_and_whether_files_were_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)

    def git(*words):
        known = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(["git", *known, *words], check=True, capture_output=True, text=True).stdout.strip()

    assert collect_provenance({})["commit"] is None and collect_provenance({})["changed"] is False  # no repository
    git("init", "-q")
    (tmp_path / "params.yaml").write_text("a: 1\n")
    git("add", "params.yaml")
    git("commit", "-qm", "first")
    (tmp_path / "new").write_text("not tracked")
    found = collect_provenance({"run": "x"})
    assert found["commit"] == git("rev-parse", "HEAD") and found["changed"] is False
    assert found["experiment"] is None and found["mlflow"] == {"run": "x"} and "python" in found["versions"]
    (tmp_path / "params.yaml").write_text("a: 2\n")
    assert collect_provenance({})["changed"] is True


def test_an_experiment_names_itself_and_the_commit_it_began_with(monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "tidy-mole")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "abc")
    assert (collect_provenance({})["experiment"], collect_provenance({})["commit"]) == ("tidy-mole", "abc")
