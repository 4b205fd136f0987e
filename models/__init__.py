"""Recognizers: training code (torch) and the torch-free ONNX Runtime bundle that the server runs."""
