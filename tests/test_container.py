"""launch/serve/Containerfile against what it names; no container engine is needed."""

import re
import shlex
from pathlib import Path

import pytest
from conftest import ROOT

from prunella.tracking.registry import REQUIREMENTS

FILE = ROOT / "launch" / "serve" / "Containerfile"


@pytest.fixture(scope="module")
def said() -> list[tuple[str, str]]:
    """(instruction, its words), in order; lines that go on are one."""
    lines = FILE.read_text().replace("\\\n", " ").splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip() and not line.startswith("#")]


def words_of(said, instruction: str) -> list[str]:
    return [words for name, words in said if name == instruction]


def test_what_it_copies_is_there_and_what_it_installs_is_pinned(said):
    assert [words.split()[0] for words in words_of(said, "COPY")] == ["constraints.txt"]
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    installed: list[str] = []
    for words in words_of(said, "RUN"):
        if words.startswith("pip install"):
            assert "--constraint /opt/constraints.txt" in words
            options = re.sub(r"--(constraint|index-url) \S+|--no-cache-dir", "", words)
            installed += options.split()[2:]
    assert sorted(installed) == sorted(REQUIREMENTS) and set(installed) <= pinned


def test_it_serves_as_a_plain_user_and_holds_no_secret(said):
    names = [name for name, _ in said]
    (user,) = words_of(said, "USER")
    assert int(user) > 0 and any(f"--uid {user} " in words for words in words_of(said, "RUN"))
    assert names.index("USER") < names.index("CMD") and "RUN" not in names[names.index("USER") :]
    assert not any(re.search("PASSWORD|TOKEN|SECRET|KEY", words) for _, words in said)
    assert not words_of(said, "ADD") and "has not been built" in FILE.read_text()


def test_its_command_has_options_that_mlflow_has(said):
    from mlflow.models.cli import serve

    words = shlex.split(words_of(said, "CMD")[0])
    assert words[:4] == ["exec", "mlflow", "models", "serve"]
    parsed = serve.make_context("serve", words[4:]).params
    assert (parsed["host"], parsed["port"], parsed["env_manager"]) == ("0.0.0.0", 5001, "local")
    assert parsed["model_uri"] == "$MODEL" and words_of(said, "EXPOSE") == [str(parsed["port"])]


def test_its_health_check_asks_an_address_that_the_server_has(said):
    import mlflow

    server = Path(mlflow.__file__).parent / "pyfunc" / "scoring_server" / "__init__.py"
    (address,) = re.findall(r"http://127\.0\.0\.1:5001(/\w+)", words_of(said, "HEALTHCHECK")[0])
    assert f'"{address}"' in server.read_text()


def test_the_documented_lines_name_it():
    text = (ROOT / "docs" / "export.md").read_text()
    assert f"--file {FILE.relative_to(ROOT)} " in text
    given = set(re.findall(r"--(?:env|build-arg) (\w+)", text))
    assert {name for name in given if not name.startswith("MLFLOW_TRACKING_")} == {"MODEL", "TORCH_INDEX"}
    assert {"MODEL", "TORCH_INDEX"} <= set(re.findall(r"^(?:ENV|ARG) (\w+)=", FILE.read_text(), re.M))
