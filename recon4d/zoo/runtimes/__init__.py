"""Networks as files for other runtimes: programs of torch.export and ONNX."""
