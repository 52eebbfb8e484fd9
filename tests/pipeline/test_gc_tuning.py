import subprocess
import sys


def said(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_commands_collect_seldom_and_who_imports_prunella_as_ever():
    shown = "import gc; print(gc.get_threshold()[0])"
    assert said(f"from prunella.cli.main import main; main(['students']); {shown}").endswith("\n10000\n")
    assert said(f"import prunella.api; {shown}") == "700\n"


def test_nothing_is_looked_through_at_the_end():
    first = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 1000))"  # which runs last
    assert said(f"{first}; from prunella.pipeline.gc_tuning import relax_gc; relax_gc()") == "True\n"
