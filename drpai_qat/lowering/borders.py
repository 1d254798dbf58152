"""The form in which a producer writes its output, so that the convolutions behind read it as it is.

Padding is written around the image, and 8-bit values whose products need int16 operands are written as int16: both
would otherwise take a copy of the tensor.
"""

from __future__ import annotations

from collections.abc import Mapping

from drpai_qat.graph.canonical import Graph, Node
from drpai_qat.graph.grid import Grid
from drpai_qat.lowering.network_plan import ConvPlan
from drpai_qat.lowering.storage import Form


def wanted_forms(graph: Graph, grids: Mapping[str, Grid], convolutions: Mapping[str, ConvPlan]) -> dict[str, Form]:
    """The form that all readers of a tensor share, for those where they do and nothing reads the plain image."""
    found: dict[str, Form] = {}
    for name, readers in graph.consumers().items():
        if name not in grids or name in graph.outputs:
            continue
        forms = {_form_for(reader, name, grids[name], convolutions) for reader in readers}
        form = forms.pop()
        if not forms and form is not None and form.channels == graph.shapes[name][1] and not form.extra_rows:
            found[name] = form
    return found


def _form_for(node: Node, name: str, grid: Grid, convolutions: Mapping[str, ConvPlan]) -> Form | None:
    """The form that a convolution multiplies, if it is one of the stored integers."""
    plan = convolutions.get(node.output)
    if plan is None or name in node.inputs[1:] or len(plan.reads) > 1:
        return None
    read = plan.reads[0]
    return read.form if read.name == name and read.layer.grid == grid else None
