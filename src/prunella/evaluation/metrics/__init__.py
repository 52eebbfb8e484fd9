"""Quality metrics of drawn pictures, one file each; `benchmark.metrics` names them by their file."""

import importlib
import pkgutil
from types import ModuleType

from prunella.errors import UserError
from prunella.params import Benchmark, did_you_mean

BASE_MODULE = "base"


def list_metrics() -> list[str]:
    """The metrics that there are: the modules beside this one."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != BASE_MODULE)


def find_metric(name: str) -> ModuleType:
    """The module of a metric, whose `build(subject)` makes one. Raises UserError that names the nearest metric."""
    check_metrics([name])
    return importlib.import_module(f"{__name__}.{name}")


def check_metrics(names: list[str]) -> None:
    """Raises UserError where `benchmark.metrics` names a metric that is not there; imports none of them."""
    for name in names:
        if name not in (available := list_metrics()):
            raise UserError(f"benchmark.metrics: {did_you_mean('metric', name, available)}")


def find_unavailable_metrics(params: Benchmark) -> dict[str, str]:
    """Metrics that lack something that is known before anything is drawn, each with the line that would give it.

    The reason is a backbone that is not on this machine, or what a metric's own `lacks` says.
    """
    from prunella.evaluation.backbones import find_backbone
    from prunella.evaluation.metrics.base import Unavailable

    reasons: dict[str, str] = {}
    for name in params.metrics:
        module = find_metric(name)
        try:
            for backbone in getattr(module, "NEEDS", ()):
                find_backbone(params.backbones, backbone)
        except Unavailable as reason:
            reasons[name] = str(reason)
        if hasattr(module, "find_missing_inputs") and (missing := module.find_missing_inputs(params)):
            reasons[name] = f"{reasons[name]}; {missing}" if name in reasons else missing
    return reasons
