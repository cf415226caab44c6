"""The only room that writes: TensorBoard, metrics, checkpoints, the run directory."""
