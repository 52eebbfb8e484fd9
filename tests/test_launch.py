"""Files of launch/ against what they name; neither a cloud nor a container engine is needed."""

import re

import yaml
from conftest import ROOT

from prunella.params.recipes import list_recipes

LAUNCH = ROOT / "launch"


def test_the_task_of_skypilot_changes_what_is_there():
    task = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
    assert task["envs"]["RECIPE"] in list_recipes()
    changed = re.search(r'sed -i "s/(\^.*?)/', task["run"])[1]
    assert len(re.findall(changed, (ROOT / "params.yaml").read_text(), re.M)) == 1  # runtime.processes alone
    (persisted,) = task["file_mounts"]
    assert f"ln -s {persisted}/work work" in task["run"] and task["file_mounts"][persisted]["source"] == "${BUCKET}"
    assert "--constraint constraints.txt" in task["setup"]


def test_the_containers_share_the_folder_and_find_the_cluster():
    content = yaml.safe_load((LAUNCH / "compose.yaml").read_text())
    services = content["services"]
    assert set(services) == {"head", "worker", "repro"}
    for service in services.values():
        assert service["volumes"] == ["..:/project"]
        assert (LAUNCH / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert set(service.get("depends_on", {})) <= set(services)
    port = re.search(r"--port=(\d+)", services["head"]["command"])[1]
    assert services["repro"]["environment"]["RAY_ADDRESS"] == f"head:{port}"
    assert f"--address=head:{port}" in services["worker"]["command"]


def test_what_the_image_copies_is_there():
    text = (LAUNCH / "Containerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (.*) \S+$", text, re.M) for name in line.split()]
    assert copied and all((ROOT / name).exists() for name in copied)
    assert "WORKDIR /project" in text and "USER 10001" in text


def test_the_job_of_slurm_is_a_script_that_runs_its_arguments():
    text = (LAUNCH / "slurm" / "job.sh").read_text()
    assert text.startswith("#!/bin/sh\n#SBATCH ") and text.endswith('\nexec "$@"\n')
