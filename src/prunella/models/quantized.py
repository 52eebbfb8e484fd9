"""A UNet whose linear layers' weights have fewer bits, by torchao and diffusers' own quantizer."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from prunella.errors import UserError
from prunella.models.components import check_component_loads
from prunella.params import QuantizedDtype

# Only weights, so that nothing has to be calibrated: torchao multiplies activations of full precision with them.
TORCHAO_CONFIGS = {"int8": "Int8WeightOnlyConfig", "int4": "Int4WeightOnlyConfig", "fp8": "Float8WeightOnlyConfig"}


def load_quantized_unet(
    folder: Path, bits: QuantizedDtype, dtype: torch.dtype, device: str = "cpu"
) -> UNet2DConditionModel:
    """The UNet of a pipeline folder, the weights of its linear layers in `bits` and all others in `dtype`.

    Convolutions stay as they are, as torchao leaves them. Raises UserError where torchao is not installed, or has no
    such weights on this device, and as `load_unet` where the files are damaged.
    """
    if find_spec("torchao") is None:
        raise UserError(f"{bits} weights need torchao, which is not installed here: pip install 'prunella[torchao]'")
    unet_dir = folder / "unet"
    check_component_loads(
        unet_dir, "diffusers", UNet2DConditionModel.__name__
    )  # so that what fails below is no fault of the files
    try:
        unet = UNet2DConditionModel.from_pretrained(
            unet_dir, quantization_config=_make_quantization_config(bits), torch_dtype=dtype
        )
        return unet.to(device)
    except (ImportError, RuntimeError, NotImplementedError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{bits}: torchao has no such weights on this device ({device}): {reason}") from error


def _make_quantization_config(bits: QuantizedDtype) -> Any:
    import torchao.quantization
    from diffusers import TorchAoConfig

    return TorchAoConfig(getattr(torchao.quantization, TORCHAO_CONFIGS[bits])())
