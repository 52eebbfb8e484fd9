"""Energy that a GPU has taken, as NVML tells it (nvidia-ml-py, the extra `gpu`)."""

from typing import Any


class EnergyMeter:
    """Joules that the device has taken since its driver was loaded; NVML counts them from Volta on."""

    def __init__(self, nvml: Any, handle: Any):
        self.nvml, self.handle = nvml, handle

    def joules(self) -> float:
        return self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle) / 1000


def make_energy_meter(device: str) -> EnergyMeter | str:
    """The meter of a device, else the reason why there is none."""
    if not device.startswith("cuda"):
        return "energy is measured on Nvidia GPUs alone"
    try:
        import pynvml
    except ImportError:
        return "nvidia-ml-py is not installed (pip install 'prunella[gpu]')"
    import torch

    try:
        pynvml.nvmlInit()
        # By its UUID: CUDA_VISIBLE_DEVICES numbers devices anew, and NVML does not know it.
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        meter = EnergyMeter(pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuid))
        meter.joules()
    except pynvml.NVMLError as error:
        return f"NVML does not tell: {error}"
    return meter
