"""Finished students for other programs: single file, ONNX, quantized weights, the Hub, the model registry."""
