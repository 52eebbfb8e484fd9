"""A key's description has one home, its field; params.yaml's comments and docs/parameters.md are written from it."""

import importlib.util

import pytest
from conftest import ROOT

from prunella.params import ConfigSection

SPEC = importlib.util.spec_from_file_location("parameters_page", ROOT / "docs" / "parameters.py")
assert SPEC and SPEC.loader
page = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(page)


def test_comments_and_page_are_as_they_are_written():
    assert page.main(check=True) == 0


def test_each_key_has_a_description_that_is_a_sentence_or_two():
    sections, count = [ConfigSection], 0
    while sections:
        section = sections.pop()
        sections += section.__subclasses__()
        if section.__module__.startswith("prunella.params"):
            for name, field in section.model_fields.items():
                assert field.description and field.description.endswith("."), f"{section.__name__}.{name}"
                count += 1
    assert count > 180


@pytest.mark.parametrize(
    ("line", "written"),
    [
        ("  steps: 6 # old", ["  steps: 6                  # Optimizer steps."]),
        ("  new: 1    # a comment of another key", ["  new: 1    # a comment of another key"]),
        (
            f"  learning_rate: 1.0e-{'0' * 60}",
            ["  # Peak learning rate.", f"  learning_rate: 1.0e-{'0' * 60}"],
        ),
    ],
)
def test_a_line_gets_the_description_of_its_key(line, written):
    assert page.comment_yaml(f"# head\n\ndistill:\n{line}\n").splitlines()[3:] == written


def test_old_comment_lines_between_keys_go_and_the_head_stays():
    text = "# head\n\nprune:\n  storage: fp16 # old\n                # more\n"
    assert page.comment_yaml(text) == (
        "# head\n\nprune:                      # The student before training.\n"
        "  storage: fp16             # Precision of UNet and VAE on disk: fp32 or fp16.\n"
    )
