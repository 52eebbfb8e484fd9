"""Quality metrics of drawn pictures, one file each; `benchmark.metrics` names them by their file."""

import importlib
import pkgutil
from types import ModuleType

from prunella.errors import UserError
from prunella.params import Benchmark, unknown

SEAM = "base"


def metric_names() -> list[str]:
    """The metrics that there are: the modules beside this one."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != SEAM)


def find_metric(name: str) -> ModuleType:
    """The module of a metric, whose `build(subject)` makes one. Raises UserError that names the nearest metric."""
    check_metrics([name])
    return importlib.import_module(f"{__name__}.{name}")


def check_metrics(names: list[str]) -> None:
    """Raises UserError where `benchmark.metrics` names a metric that is not there; imports none of them."""
    for name in names:
        if name not in (known := metric_names()):
            raise UserError(f"benchmark.metrics: {unknown('metric', name, known)}")


def unmet(params: Benchmark) -> dict[str, str]:
    """Metrics that lack something that is known before anything is drawn, each with the line that would give it.

    That is a backbone that is not on this machine, or what a metric's own `lacks` says.
    """
    from prunella.evaluation.backbones import place
    from prunella.evaluation.metrics.base import Unavailable

    found: dict[str, str] = {}
    for name in params.metrics:
        module = find_metric(name)
        try:
            for key in getattr(module, "NEEDS", ()):
                place(params.backbones, key)
        except Unavailable as reason:
            found[name] = str(reason)
        if hasattr(module, "lacks") and (why := module.lacks(params)):
            found[name] = f"{found[name]}; {why}" if name in found else why
    return found
