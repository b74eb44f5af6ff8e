"""What can grow in a model, and why the rest can't."""

from __future__ import annotations

from dataclasses import dataclass

import keras

from keras_grow.channels.graph import ChannelGraph
from keras_grow.core import keras_private


@dataclass(frozen=True)
class LayerReport:
    """One row of a growth report.

    Attributes:
        layer: Name of the layer, after those of the models within the model that it is in.
        kind: Its type.
        group: Name of the channel group that it puts out, or of several, or `None`.
        width: Number of channels of the groups, or `None`.
        growable: Whether one of them can grow.
        reason: Why one of them can't, or an empty string.
    """

    layer: str
    kind: str
    group: str | None
    width: int | None
    growable: bool
    reason: str


@dataclass(frozen=True)
class GrowthReport:
    """A table of the layers of a model: group, width, growable or why not. Print it.

    Attributes:
        rows: One row per layer, in the order of the model, without its inputs.
    """

    rows: tuple[LayerReport, ...]

    @property
    def frozen(self) -> tuple[LayerReport, ...]:
        """The rows of layers that produce or carry channels which can't grow."""
        return tuple(row for row in self.rows if row.reason)

    def __str__(self) -> str:
        cells = [("layer", "type", "group", "width", "growable")]
        said: dict[str, str] = {}  # reason -> the first layer that has it
        for row in self.rows:
            width = "" if row.width is None else str(row.width)
            verdict = "yes" if row.growable else "-"
            if row.reason:
                verdict = "in part; the rest" if row.growable else "no"
                same = said.setdefault(row.reason, row.layer)
                verdict += f": {row.reason}" if same == row.layer else f", as `{same}`"
            cells.append((row.layer, row.kind, row.group or "", width, verdict))
        sizes = [max(len(line[i]) for line in cells) for i in range(4)]
        return "\n".join(
            "  ".join([*(cell.ljust(n) for cell, n in zip(line[:4], sizes, strict=True)), line[4]])
            for line in cells
        )


def report(model: keras.Model, graph: ChannelGraph) -> GrowthReport:
    """Makes the growth report of a model."""
    groups_of: dict[str, list] = {}
    for group in graph.groups.values():
        for layer in group.layers:
            groups_of.setdefault(layer, []).append(group)
    return GrowthReport(
        tuple(
            _row(name, type(layer).__name__, groups_of.get(name, []), graph)
            for name, layer in keras_private.named_layers(model)
        )
    )


def _row(name: str, kind: str, groups: list, graph: ChannelGraph) -> LayerReport:
    if not groups:
        return LayerReport(name, kind, None, None, False, graph.reasons.get(name, ""))
    frozen = [group.frozen for group in groups if group.frozen]
    return LayerReport(
        name,
        kind,
        ", ".join(group.name for group in groups),
        sum(group.width for group in groups),
        growable=len(frozen) < len(groups),
        reason=frozen[0] if frozen else "",
    )


def why_nothing_grows(model: keras.Model, graph: ChannelGraph) -> str:
    """Says what keeps a model from growing, and what to do."""
    return (
        "Its layers stay at their widths for the reasons below; an output always does, so a model "
        f"grows only between its inputs and its outputs.\n{report(model, graph)}"
    )
