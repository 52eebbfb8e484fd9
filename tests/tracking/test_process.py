import os
import subprocess
import sys

import pytest

from prunella.tracking.process import is_gone, process_tags


def test_this_process_is_there():
    assert not is_gone(process_tags())


def test_a_process_that_ended_is_gone_also_when_its_number_is_used_again():
    code = "from prunella.tracking.process import process_tags; print(process_tags())"
    tags = eval(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert tags["host"] == process_tags()["host"] and is_gone(tags)
    began = tags["process"].split()[1]
    assert is_gone(process_tags() | {"process": f"{os.getpid()} {int(began) + 1}"})


def test_before_the_machines_last_start_everything_is_gone():
    _, namespace = process_tags()["boot"].split(" ")
    assert is_gone(process_tags() | {"boot": f"another {namespace}"})


@pytest.mark.parametrize("tags", [{}, {"host": "elsewhere"}, {"boot": process_tags()["boot"] + "x"}, {"process": "1"}])
def test_what_cannot_be_told_from_here_is_left(tags):
    others = {"process": "1 1"} if "boot" in tags or "host" in tags else {}
    assert not is_gone(process_tags() | others | tags if tags else {})
