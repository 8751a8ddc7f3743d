"""A model for elsewhere: an ONNX graph, a folder for MLflow, or one that needs nothing else."""
