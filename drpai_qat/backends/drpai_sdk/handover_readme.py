"""The README of a handover, for who gets the folder."""

README = """\
# {name}, for the DRP-AI SDK's own script

`model.onnx` is the trained network in float32: fake-quant nodes folded, every weight on the grid that training left it
on, and a Clip at every trained range. A quantizer that takes minimum and maximum of each tensor arrives at the trained
ranges where the calibration data reaches both ends of the Clips:
{summary}.

| | |
|---|---|
| `model.onnx` | inputs {inputs} |
| `calibration/input/<i>_<frame>.npy` | {frames} frames for input i; in `output/`: what the float model makes of them |
| `ranges.json` | each trained range: scale, zero point, ends, and which of them the frames reach |

## How to

The model is a float model now: compile it without `-a` and `-m`, and ask for asymmetric activations.

1. In the SDK's script, feed these frames where it makes random ones: in the loop over `num_frame`, input i of frame k
   is `numpy.load("calibration/input/%d_%d.npy" % (i, k))`. Images of your own (`--images`) may be added, not put in
   their place: they seldom reach both ends.
2. Run it:
   `python3 compile_onnx_model_quant.py model.onnx -o OUT -d TRANSLATOR -c QUANTIZER -p "-az True" -n {frames} -v 100`
3. Hold the quantized model that it leaves (usually `model_quantization.onnx`) against what was trained:
   `drpai-qat handover {name} --returned model_quantization.onnx`

## What to expect

- Without quantization the network differs from the trained one by up to {largest} at the outputs (first frame): it is
  the quantizer that puts the roundings back.
- Weights come back as trained if the quantizer takes the largest magnitude of each channel as 127 steps, and training
  left one there. Weights of fewer than 8 bits come back on a finer grid.
- Trained ranges that calibration does not arrive at:

{missed}

This was written to the public description of the SDK; it has not been run with the SDK itself.
"""
