"""Where else a run is logged: TensorBoard, MLflow or W&B, none of which can stop a training."""
