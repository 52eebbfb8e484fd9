"""A student behind `mlflow models serve`: a row is a prompt and how to draw it, the answer a PNG in base64.

MLflow keeps this file with the model and runs it ("models from code"), so it knows diffusers and MLflow alone. What is
out of bounds is answered with status 400 and a line that names it. A pipeline draws one picture at a time: its sampler
keeps state.
"""

import base64
import io
import math
import threading
from typing import Any

import torch
from diffusers import DiffusionPipeline
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel

ROWS = 8  # pictures in a request
LONGEST = 1000  # characters of a prompt
# Of a row: the least and the most that is drawn; `size` is bounded by the model's own.
BOUNDS = {"seed": (0, 2**32 - 1), "steps": (1, 150), "guidance": (1.0, 30.0)}
LARGEST = 2  # times the size that the model was trained for


class Student(PythonModel):
    """A stock diffusers pipeline as an MLflow model."""

    def load_context(self, context: Any) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.float16 if device == "cuda" else torch.float32
        self.pipeline = DiffusionPipeline.from_pretrained(context.artifacts["pipeline"], dtype=dtype).to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.defaults = dict(context.model_config)
        self.lock = threading.Lock()

    # Without hints, which MLflow would read as the schema.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """[{"png": base64}] for each row of `model_input`, a table of prompt, negative_prompt, seed, steps, …"""
        rows = model_input.to_dict("records") if hasattr(model_input, "to_dict") else list(model_input)
        if len(rows) > ROWS:
            raise _refused(f"{len(rows)} rows; at most {ROWS} are drawn at once")
        checked = [self._checked(row) for row in rows]
        with self.lock:
            return [{"png": self._png(row)} for row in checked]

    def _checked(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with defaults for what it leaves out. Raises MlflowException (400) for what is out of bounds."""
        given = {name: value for name, value in row.items() if value is not None and not _nan(value)}
        native = self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor
        asked = {"seed": 0, "size": native, **self.defaults, **given}
        if unknown := asked.keys() - {"prompt", "negative_prompt", "size", *BOUNDS}:
            raise _refused(f"{sorted(unknown)[0]}: no such field")
        for name in ("prompt", "negative_prompt"):
            if not isinstance(asked.get(name), str) or len(asked[name]) > LONGEST:
                raise _refused(f"{name}: a text of at most {LONGEST} characters is expected")
        for name, (least, most) in BOUNDS.items():
            if not least <= asked[name] <= most:
                raise _refused(f"{name}: {asked[name]}; {least} to {most} is allowed")
        factor = self.pipeline.vae_scale_factor
        if not factor <= asked["size"] <= LARGEST * native or asked["size"] % factor:
            raise _refused(f"size: {asked['size']}; a multiple of {factor} up to {LARGEST * native} is allowed")
        return asked

    def _png(self, row: dict[str, Any]) -> str:
        drawn = self.pipeline(
            row["prompt"],
            negative_prompt=row["negative_prompt"] or None,
            num_inference_steps=int(row["steps"]),
            guidance_scale=float(row["guidance"]),
            width=int(row["size"]),
            height=int(row["size"]),
            generator=torch.Generator().manual_seed(int(row["seed"])),
        )
        file = io.BytesIO()
        drawn.images[0].save(file, "PNG")
        return base64.b64encode(file.getvalue()).decode()


def _nan(value: Any) -> bool:
    """What a table has in place of a field that a row leaves out."""
    return isinstance(value, float) and math.isnan(value)


def _refused(said: str) -> MlflowException:
    return MlflowException(said, error_code=INVALID_PARAMETER_VALUE)


set_model(Student())
