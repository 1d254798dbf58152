"""What gives a tensor a range in training."""

from __future__ import annotations

from drpai_qat.inspection.origin import PYTORCH, TENSORFLOW

_PYTORCH = {
    "": "a QuantStub at the network's input",
    "Add": "FloatFunctional.add in place of +",
    "Mul": "FloatFunctional.mul in place of *",
    "Concat": "FloatFunctional.cat in place of torch.cat",
    "MatMul": "FloatFunctional.matmul in place of @",
}


def remedy(op: str, framework: str) -> str:
    """For a tensor that `op` computes ("": a network input), in the words of the framework."""
    if framework == TENSORFLOW:
        annotated = "tfmot's quantize_annotate_layer on that layer, with a QuantizeConfig for its output"
        return annotated if op else "tfmot's quantize_model, which puts a QuantizeLayer at the input"
    if framework == PYTORCH:
        return _PYTORCH.get(op, "a QuantStub behind it")
    return "a fake-quant behind it" if op else "a fake-quant at the network's input"
