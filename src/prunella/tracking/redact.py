"""Secrets that must not stand in runs, reports and messages: passwords in addresses, and secrets of the environment."""

import os
import re
from typing import Any

REDACTED = "…"
MIN_SECRET_CHARS = 8  # characters of a secret; shorter values ("false") stand in other places by chance
# Names of variables, such as HF_TOKEN, AWS_SECRET_ACCESS_KEY, AWS_ACCESS_KEY_ID, MLFLOW_TRACKING_PASSWORD.
SECRET_VARIABLE_PATTERN = re.compile(
    r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)(_|$)|(^|_|API)KEY(_ID)?$", re.I
)
URL_USER_PATTERN = re.compile(r"(?<=://)[^/\s'\"]*@")  # greedy: a password may hold "@"
SECRET_FIELD = r"[\w.-]*(?:token|password|passwd|secret|signature|credential|api_?key|access_?key)[\w.-]*|key|sig"
URL_QUERY_PATTERN = re.compile(rf"([?&](?:{SECRET_FIELD})=)[^&#\s'\"]+", re.I)


def redact(content: Any) -> Any:
    """`content`, a text or lists and dicts of such, with secrets left out; what is no text stays as it is."""
    if isinstance(content, dict):
        return {name: redact(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [redact(value) for value in content]
    return _redact_text(content) if isinstance(content, str) else content


def _redact_text(text: str) -> str:
    if "://" in text:
        text = URL_QUERY_PATTERN.sub(rf"\1{REDACTED}", URL_USER_PATTERN.sub(f"{REDACTED}@", text))
    for name, value in os.environ.items():
        if len(value) >= MIN_SECRET_CHARS and value in text and SECRET_VARIABLE_PATTERN.search(name):
            text = text.replace(value, REDACTED)
    return text
