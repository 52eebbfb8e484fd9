"""Old names of parameters: refused by the new one, and understood in what earlier versions have left."""

import pytest
import yaml

from prunella.params.renames import folder_section, new_key, rename_keys, restore_keys


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("distill.clip_norm", "distill.max_grad_norm"),
        ("finetune.schedule", "finetune.lr_scheduler"),
        ("finetune.data.mine.filter.max_broken", "finetune.data.mine.filter.max_corrupt_fraction"),
        ("generate.mine.guidance", "generate.mine.guidance_scale"),
        ("promote.gates.1.of_teacher", "promote.gates.1.relative_to_teacher"),
        ("benchmark.real", "benchmark.reference_images"),
        ("distill.picture_every", "watch.image_every"),
        ("distill.max_grad_norm", None),
        ("clip_norm", None),
        ("plan.students.mine.rounds", None),
    ],
)
def test_an_old_key_is_known_by_its_new_name(old, new):
    assert new_key(old) == new


OLD = yaml.safe_load("""
seed: 3
distill: {clip_norm: 0.5, schedule: linear, phases: [{steps: 2}]}
generate: {mine: {guidance: 2.0, sizes: [[8, 8]]}}
benchmark: {real: {path: null, pictures: 7}, guidance: 4.0}
promote: {gates: [{figure: composition, of_teacher: true}, {figure: macs, of_teacher: false}]}
""")
NEW = yaml.safe_load("""
seed: 3
distill: {max_grad_norm: 0.5, lr_scheduler: linear, phases: [{steps: 2}]}
generate: {mine: {guidance_scale: 2.0, sizes: [[8, 8]]}}
benchmark: {reference_images: {path: null, max_images: 7}, guidance_scale: 4.0}
promote: {gates: [{metric: composition, relative_to_teacher: true}, {metric: macs, relative_to_teacher: false}]}
""")


def test_a_whole_file_is_renamed_and_restored():
    assert rename_keys(OLD) == NEW and rename_keys(NEW) == NEW
    assert restore_keys(NEW, OLD) == OLD and restore_keys(NEW, NEW) == NEW


def test_a_section_is_renamed_by_itself():
    assert rename_keys(OLD["distill"], "distill") == NEW["distill"]
    assert rename_keys({"word": "sks", "vectors": 2}, "finetune.inversion") == {
        "placeholder_token": "sks",
        "num_vectors": 2,
    }
    both = {"clip_norm": 1.0, "max_grad_norm": 0.5}
    assert rename_keys(both, "distill") == both  # for the check to refuse


def test_restoring_needs_the_old_defaults_to_say_which():
    assert restore_keys({"distill": {"max_grad_norm": 0.5}}, {"distill": {}}) == {"distill": {"max_grad_norm": 0.5}}


@pytest.mark.parametrize(
    ("folder", "section"),
    [("distill", "distill"), ("generate-mine", "generate.*"), ("prior", "finetune.dreambooth"), ("draw-a-b", "draw")],
)
def test_a_folder_in_work_holds_the_parameters_of_a_section(folder, section):
    assert folder_section(folder) == section
