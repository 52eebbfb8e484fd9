"""A student distilled from captions alone: the real graph, pictures made by the teacher in place of any data."""

import json

import pytest
import yaml
from toygraph import DVC, cloned, committed, run, stages_run

SET = {
    "prompts": "prompts.txt", "samples": 99, "images_per_prompt": 2, "model": "models/teacher.json", "id": None,
    "revision": "main", "negative_prompt": "", "guidance_scale": 3.0, "scheduler": "DDIMScheduler",
    "num_inference_steps": 2,
    "sizes": [[32, 32]], "batch_size": 4, "precision": "fp32", "storage": "fp32", "seed": 0,
}  # fmt: skip


@pytest.mark.graph
def test_a_student_learns_from_captions_alone(teacher, pictures, tmp_path, warm):
    clone = cloned(teacher, pictures, tmp_path, students=["sd-tiny"], batch_size=4)  # for two processes
    content = yaml.safe_load((clone / "params.yaml").read_text())
    content["generate"] = {"captions": SET}
    content["filter"] |= {"source": "generated", "path": "data/generated/captions"}
    content["runtime"]["processes"] = 2
    content["finetune"]["batch_size"] = 4  # checked from the start, though it does not run
    (clone / "params.yaml").write_text(yaml.safe_dump(content))
    (clone / "prompts.txt").write_text("\n".join(f"a red ring number {i}" for i in range(11)))
    committed(clone)
    ran = stages_run(run(clone, DVC, "repro", "distill@sd-tiny", **warm))
    assert {"teacher", "generate@captions", "filter", "encode", "distill@sd-tiny"} <= ran
    assert json.loads((clone / "reports/generate/captions.json").read_text())["pictures"] == 22
    encoded = json.loads((clone / "reports/encode.json").read_text())
    assert encoded["as_drawn"] == 22 and encoded["train"] == 15
    assert (clone / "models/distilled/sd-tiny/model_index.json").is_file()
    assert stages_run(run(clone, DVC, "repro", "distill@sd-tiny", **warm)) == set()

    content["generate"]["captions"]["guidance_scale"] = 2.0
    (clone / "params.yaml").write_text(yaml.safe_dump(content))
    again = stages_run(run(clone, DVC, "repro", "--dry", "--force-downstream", "distill@sd-tiny"))
    assert {"generate@captions", "filter", "encode", "distill@sd-tiny"} <= again
