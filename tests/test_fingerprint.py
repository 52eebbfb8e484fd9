from prunella.fingerprint import work_folder


def test_what_changes_a_fingerprint(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    data = tmp_path / "data"
    data.mkdir()
    (data / "a").write_text("1")

    def folder(**params):
        return work_folder("distill", {"steps": 1} | params, [data])

    first = folder()
    assert first == folder() and first.parent == tmp_path / "work" / "distill"
    assert folder(steps=2) != first
    (data / "a").write_text("2")
    changed = folder()
    assert changed != first
    (data / "a").rename(data / "b")
    assert folder() != changed


def test_code_counts(tmp_path, monkeypatch):
    import sys
    from types import ModuleType

    first = work_folder("x", {}, [])
    (tmp_path / "new.py").write_text("1")
    module = ModuleType("prunella.new")
    module.__file__ = str(tmp_path / "new.py")
    monkeypatch.setitem(sys.modules, "prunella.new", module)
    assert work_folder("x", {}, []) != first
