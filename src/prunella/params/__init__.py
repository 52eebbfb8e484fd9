"""The parameters of `params.yaml`: a model per section, defaults, and recipes. This package hands on their names."""

from prunella.params.benchmark import (
    Backbones,
    Benchmark,
    LatencyVariant,
    QuantizedDtype,
    ReferenceImages,
    SchedulerName,
    parse_quantized_dtype,
)
from prunella.params.data import Encode, Filter
from prunella.params.distill import (
    Distill,
    FeatureMode,
    FeatureNormalization,
    LossWeight,
    LossWeights,
    Phase,
    is_weight_active,
)
from prunella.params.export import ExportFormat, Gate
from prunella.params.fields import ConfigSection, Fraction, NonNegativeFloat, PositiveInt, Precision, Seed, StorageDtype
from prunella.params.finetune import MAIN_LATENTS_DIR, Finetune, Lora, TextualInversion
from prunella.params.generate import Generate
from prunella.params.params_file import fill_entries, read_params
from prunella.params.plan import PlanRequest, PlanSearch, Prune
from prunella.params.runtime import Runtime
from prunella.params.schema import Params, students_not_finetuned, students_with_fixed_plan
from prunella.params.teacher import ModelSource
from prunella.params.training import DiffusionTraining, Training
from prunella.params.validation import (
    did_you_mean,
    fill_defaults,
    fill_section,
    load_shipped_defaults,
    validate_as,
    validate_config,
)
from prunella.params.watch import Monitoring

__all__ = [
    "MAIN_LATENTS_DIR",
    "Backbones",
    "Benchmark",
    "ConfigSection",
    "DiffusionTraining",
    "Distill",
    "Encode",
    "ExportFormat",
    "FeatureMode",
    "FeatureNormalization",
    "Filter",
    "Finetune",
    "Fraction",
    "Gate",
    "Generate",
    "LatencyVariant",
    "Lora",
    "LossWeight",
    "LossWeights",
    "ModelSource",
    "Monitoring",
    "NonNegativeFloat",
    "Params",
    "Phase",
    "PlanRequest",
    "PlanSearch",
    "PositiveInt",
    "Precision",
    "Prune",
    "QuantizedDtype",
    "ReferenceImages",
    "Runtime",
    "SchedulerName",
    "Seed",
    "StorageDtype",
    "TextualInversion",
    "Training",
    "did_you_mean",
    "fill_defaults",
    "fill_entries",
    "fill_section",
    "is_weight_active",
    "load_shipped_defaults",
    "parse_quantized_dtype",
    "read_params",
    "students_not_finetuned",
    "students_with_fixed_plan",
    "validate_as",
    "validate_config",
]
