"""An answer of ``explain`` as text and as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bubu_operator.injection.explain import CarriedState, ContainerExplanation, Explanation
from bubu_operator.injection.inject import InjectionReason
from bubu_operator.kubectl.failures import one_line
from bubu_operator.kubectl.output import paragraph, row

if TYPE_CHECKING:
    from bubu_operator.kubectl.explain import Answer

__all__ = ["as_document", "as_text"]


_OUTCOMES: Final = {
    InjectionReason.INJECTED: "it gets storage",
    InjectionReason.ALREADY_INJECTED: "it has its storage, and nothing would change",
    InjectionReason.ALL_KEPT: "nothing is written: it sets all of this itself",
    InjectionReason.NO_MATCHING_CONTAINER: "it gets nothing: the config is for none of its containers",
}

_CARRIED: Final = {
    CarriedState.STALE: "it carries an older form of its storage",
    CarriedState.MISSING: "it runs without its storage; created now it would get it",
    CarriedState.LEFT_OVER: "it carries storage that it would not get now",
}


def as_text(answer: Answer) -> str:
    """Lines for people, aligned, without a trailing newline."""
    told = answer.explanation
    lines = [f"{answer.what} in namespace {told.namespace}", ""]
    lines += row("result", f"{_outcome(told)} ({told.outcome})")
    lines += row("asks", ("yes: " if told.demand.wanted else "no: ") + told.demand_text)
    if told.selection_text:
        generation = f"generation {told.generation}, " if told.generation else ""
        chosen = f" ({generation}hash {told.hash})" if told.config else ""
        lines += row("config", f"{told.selection_text}{chosen}")
    for candidate in told.candidates:
        if not candidate.chosen:
            lines += row("not", f"{candidate.config}: {candidate.note}")
    if told.carried.state is not CarriedState.NOTHING:
        what = told.carried.config or "nothing"
        record = (
            f", generation {told.carried.generation}, hash {told.carried.hash}" if told.carried.hash else ""
        )
        lines += row("carries", f"{what}{record} ({told.carried.state}): {told.carried.note}")
    for title, texts in (("warning", told.warnings), ("note", answer.notes), ("unseen", answer.gaps)):
        for text in texts:
            lines += row(title, text)
    for volume in told.volumes:
        lines += row("volume", volume)
    for group in _grouped(told.containers):
        lines += ["", *_container(group)]
    return "\n".join(line.rstrip() for line in lines)


def _outcome(told: Explanation) -> str:
    if told.carried.state is CarriedState.CURRENT and not told.demand.wanted:
        return "it has its storage, from its owner's pod template"
    if told.carried.state in _CARRIED:
        return _CARRIED[told.carried.state]
    for reason, text in _OUTCOMES.items():
        if told.outcome == reason:
            return text
    return "it gets no storage"


def _grouped(containers: tuple[ContainerExplanation, ...]) -> list[list[ContainerExplanation]]:
    """Containers that get the same are told once."""
    groups: list[list[ContainerExplanation]] = []
    for container in containers:
        for group in groups:
            first = group[0]
            if (first.variables, first.mounts, first.notes) == (
                container.variables,
                container.mounts,
                container.notes,
            ):
                group.append(container)
                break
        else:
            groups.append([container])
    return groups


def _container(group: list[ContainerExplanation]) -> list[str]:
    first = group[0]
    lines = [", ".join(f"{item.role} {one_line(item.name)}" for item in group)]
    width = max((len(variable.name) for variable in first.variables), default=0)
    lines += [f"  {variable.name:<{width}}  {one_line(variable.source)}" for variable in first.variables]
    lines += [f"  {mount}" for mount in first.mounts]
    for note in first.notes:
        lines += paragraph(one_line(note), 2, first=2).split("\n")
    return lines


def as_document(answer: Answer) -> dict[str, Any]:
    """Plain data with the API's kind of names; every key is always there."""
    told = answer.explanation
    return {
        "object": answer.what,
        "namespace": told.namespace,
        "outcome": told.outcome,
        "injected": told.injected,
        "demand": {"wanted": told.demand.wanted, "reason": told.demand.value, "text": told.demand_text},
        "selection": {
            "config": told.config,
            "generation": told.generation,
            "hash": told.hash,
            "text": told.selection_text,
            "candidates": [
                {"config": item.config, "chosen": item.chosen, "note": item.note} for item in told.candidates
            ],
        },
        "carried": {
            "state": told.carried.state.value,
            "config": told.carried.config,
            "generation": told.carried.generation,
            "hash": told.carried.hash,
            "note": told.carried.note,
        },
        "containers": [
            {
                "name": item.name,
                "role": item.role,
                "env": [{"name": entry.name, "source": entry.source} for entry in item.variables],
                "mounts": list(item.mounts),
                "notes": list(item.notes),
            }
            for item in told.containers
        ],
        "volumes": list(told.volumes),
        "warnings": list(told.warnings),
        "notes": list(answer.notes),
        "gaps": list(answer.gaps),
    }
