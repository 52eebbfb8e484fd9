"""Run stages one after another, as their command lines do, without MLflow; started by path, on any version's code.

Standard input is a JSON list of {"name", "folder" to run in, "script", "words" of the command line}. The name of each
job is printed before it begins.
"""

import json
import os
import runpy
import sys
from collections import namedtuple
from types import ModuleType

# MLflow cannot be imported, so stages log nothing; they make entries before they see that nobody takes them.
sys.modules["mlflow"] = None  # type: ignore[assignment]
entries = sys.modules["mlflow.entities"] = ModuleType("mlflow.entities")
vars(entries)["Param"] = namedtuple("Param", "key value")
vars(entries)["Metric"] = namedtuple("Metric", "key value timestamp step")

for job in json.load(sys.stdin):
    print(job["name"], flush=True)
    os.chdir(job["folder"])
    os.environ["DVC_ROOT"] = job["folder"]
    sys.argv = [job["script"], *job["words"]]
    runpy.run_path(job["script"], run_name="__main__")
