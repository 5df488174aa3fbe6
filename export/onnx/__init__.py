"""ONNX files: fewer nodes (`simplify`, `rewrites`), and one file of weights for all graphs (`weights`)."""
