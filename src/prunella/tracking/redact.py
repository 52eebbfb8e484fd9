"""What must not be seen in runs, reports and messages: passwords in addresses, and secrets of the environment."""

import os
import re
from typing import Any

HIDDEN = "…"
LEAST = 8  # characters of a secret; shorter values ("false") stand in other places by chance
# Names of variables, such as HF_TOKEN, AWS_SECRET_ACCESS_KEY, AWS_ACCESS_KEY_ID, MLFLOW_TRACKING_PASSWORD.
NAMES = re.compile(r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)(_|$)|(^|_|API)KEY(_ID)?$", re.I)
USER = re.compile(r"(?<=://)[^/\s'\"]*@")  # greedy: a password may hold "@"
FIELD = r"[\w.-]*(?:token|password|passwd|secret|signature|credential|api_?key|access_?key)[\w.-]*|key|sig"
QUERY = re.compile(rf"([?&](?:{FIELD})=)[^&#\s'\"]+", re.I)


def hidden(told: Any) -> Any:
    """`told`, a text or lists and dicts of such, with secrets left out; what is no text stays as it is."""
    if isinstance(told, dict):
        return {name: hidden(value) for name, value in told.items()}
    if isinstance(told, list | tuple):
        return [hidden(value) for value in told]
    return _without(told) if isinstance(told, str) else told


def _without(text: str) -> str:
    if "://" in text:
        text = QUERY.sub(rf"\1{HIDDEN}", USER.sub(f"{HIDDEN}@", text))
    for name, value in os.environ.items():
        if len(value) >= LEAST and value in text and NAMES.search(name):
            text = text.replace(value, HIDDEN)
    return text
