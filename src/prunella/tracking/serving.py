"""A student behind `mlflow models serve`: a row is a prompt and how to draw it, the answer a PNG in base64.

MLflow keeps this file with the model and runs it ("models from code"), so it knows diffusers and MLflow alone. A field
that is out of bounds is answered with status 400 and a line that names it. A pipeline draws one picture at a time: its
sampler keeps state.
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

MAX_ROWS = 8  # pictures in a request
MAX_PROMPT_CHARS = 1000  # characters of a prompt
# Of a row: the least and the most that is drawn; `size` is bounded by the model's own.
BOUNDS = {"seed": (0, 2**32 - 1), "steps": (1, 150), "guidance": (1.0, 30.0)}
MAX_SIZE_FACTOR = 2  # times the size that the model was trained for


class ServedStudent(PythonModel):
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
        if len(rows) > MAX_ROWS:
            raise _bad_request(f"{len(rows)} rows; at most {MAX_ROWS} are drawn at once")
        validated_rows = [self._validate_row(row) for row in rows]
        with self.lock:
            return [{"png": self._generate_png(row)} for row in validated_rows]

    def _validate_row(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with defaults for what it leaves out. Raises MlflowException (400) for what is out of bounds."""
        present_values = {name: value for name, value in row.items() if value is not None and not _is_nan(value)}
        native_size = self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor
        request = {"seed": 0, "size": native_size, **self.defaults, **present_values}
        if unknown := request.keys() - {"prompt", "negative_prompt", "size", *BOUNDS}:
            raise _bad_request(f"{sorted(unknown)[0]}: no such field")
        for name in ("prompt", "negative_prompt"):
            if not isinstance(request.get(name), str) or len(request[name]) > MAX_PROMPT_CHARS:
                raise _bad_request(f"{name}: a text of at most {MAX_PROMPT_CHARS} characters is expected")
        for name, (minimum, maximum) in BOUNDS.items():
            if not minimum <= request[name] <= maximum:
                raise _bad_request(f"{name}: {request[name]}; {minimum} to {maximum} is allowed")
        size_multiple = self.pipeline.vae_scale_factor
        if not size_multiple <= request["size"] <= MAX_SIZE_FACTOR * native_size or request["size"] % size_multiple:
            raise _bad_request(
                f"size: {request['size']}; a multiple of {size_multiple} up to {MAX_SIZE_FACTOR * native_size} is "
                "allowed"
            )
        return request

    def _generate_png(self, row: dict[str, Any]) -> str:
        output = self.pipeline(
            row["prompt"],
            negative_prompt=row["negative_prompt"] or None,
            num_inference_steps=int(row["steps"]),
            guidance_scale=float(row["guidance"]),
            width=int(row["size"]),
            height=int(row["size"]),
            generator=torch.Generator().manual_seed(int(row["seed"])),
        )
        file = io.BytesIO()
        output.images[0].save(file, "PNG")
        return base64.b64encode(file.getvalue()).decode()


def _is_nan(value: Any) -> bool:
    """The value in a table in place of a field that a row leaves out."""
    return isinstance(value, float) and math.isnan(value)


def _bad_request(message: str) -> MlflowException:
    return MlflowException(message, error_code=INVALID_PARAMETER_VALUE)


set_model(ServedStudent())
