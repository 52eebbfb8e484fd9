import pytest
from PIL import Image
from planted import ADDRESS, ENVIRONMENT, SHOWN, WORD, leaks
from tracked import runs

from prunella.tracking.redact import redact
from prunella.tracking.run import StageRun, start_stage_run


@pytest.fixture
def planted(monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://ada:S3cr3t@host/a?b=1", "https://…@host/a?b=1"),
        ("ssh://ada@host/srv", "ssh://…@host/srv"),
        ("postgresql://ada:p@ss@db:5432/mlflow", "postgresql://…@db:5432/mlflow"),
        ("postgresql:///mlflow?host=/run&password=S3cr3t", "postgresql:///mlflow?host=/run&password=…"),
        ("GET https://h/x?X-Amz-Signature=a1b2&design=3 'q'", "GET https://h/x?X-Amz-Signature=…&design=3 'q'"),
        ("mail ada@example.org about 3 tokens", "mail ada@example.org about 3 tokens"),
        ("http://host/a and then b@c", "http://host/a and then b@c"),
        (f"said {ENVIRONMENT['HF_TOKEN']}.", "said …."),
        (f"key {ENVIRONMENT['AWS_ACCESS_KEY_ID']}", "key …"),
    ],
)
def test_passwords_in_addresses_and_secrets_of_the_environment_are_left_out(planted, text, shown):
    assert redact(text) == shown
    assert redact({"a": [text, 3]}) == {"a": [shown, 3]}


def test_what_is_no_secret_is_kept(monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "sometimes")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "safe.directory")
    monkeypatch.setenv("A_TOKEN", "false")
    assert redact("sometimes safe.directory is false") == "sometimes safe.directory is false"


def leaking_stage() -> None:
    with pytest.raises(RuntimeError), start_stage_run("distill x", {"filter": {"path": ADDRESS}}) as run:
        run.log_params({"path": ADDRESS, "said": ENVIRONMENT["HF_TOKEN"]})
        run.log_metrics(1, {"train/loss": 0.5})
        run.log_image(1, "samples", Image.new("RGB", (4, 4)))
        run.log_headline({"x": {"output_error": 0.125}})
        raise RuntimeError(f"403 for {ADDRESS} with {ENVIRONMENT['AWS_SECRET_ACCESS_KEY']}")


def test_no_secret_is_in_a_run(local, planted):
    leaking_stage()
    assert leaks(local) == []
    (run,) = [run for run in runs() if "stage" in run.data.tags]
    assert run.data.params == {"path": f"{SHOWN}#top", "said": "…"}
    assert run.data.tags["error"] == f"403 for {SHOWN}#top with …"


def test_no_secret_is_in_a_journal_or_in_what_is_said_of_a_server(local, planted, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ada:{WORD}@127.0.0.1:9")
    with pytest.warns(UserWarning, match="http://…@127.0.0.1:9 cannot be reached") as said:
        leaking_stage()
    assert not [str(each.message) for each in said if WORD in str(each.message)]
    (journal,) = (local / "work" / "tracking").glob("*.jsonl")
    assert r"\u2026" in journal.read_text() and leaks(local) == []
    assert StageRun(object(), "1", "2").get_identifiers() == {
        "server": "http://…@127.0.0.1:9",
        "run": "1",
        "parent run": "2",
    }
