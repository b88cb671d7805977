"""Injection, pure: which config a pod gets, and the pod with it.

``load_config(obj)`` reads a config, ``demand_for`` and ``select_config`` decide,
``inject_pod`` and ``inject_template`` do it, ``make_patch`` says what changed
(``patch_text`` the same of an injection, as text, ``fresh_patch`` that in one go for nearly every pod).
"""

from bubu_operator.injection.config import InjectionConfig, load_config
from bubu_operator.injection.fresh import fresh_patch
from bubu_operator.injection.inject import InjectionReason, InjectionResult, inject_pod, remove_injection
from bubu_operator.injection.patch import JsonPatch, apply_patch, make_patch
from bubu_operator.injection.patch_text import patch_text
from bubu_operator.injection.podspec import pod_problem
from bubu_operator.injection.select import (
    Demand,
    Selection,
    SelectionReason,
    demand_for,
    select_config,
)
from bubu_operator.injection.template import (
    TemplateResult,
    inject_template,
    injected_record,
    pod_template,
    remove_from_template,
)

__all__ = [
    "Demand",
    "InjectionConfig",
    "InjectionReason",
    "InjectionResult",
    "JsonPatch",
    "Selection",
    "SelectionReason",
    "TemplateResult",
    "apply_patch",
    "demand_for",
    "fresh_patch",
    "inject_pod",
    "inject_template",
    "injected_record",
    "load_config",
    "make_patch",
    "patch_text",
    "pod_problem",
    "pod_template",
    "remove_from_template",
    "remove_injection",
    "select_config",
]
