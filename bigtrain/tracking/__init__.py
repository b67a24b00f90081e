"""Where a run is seen: console, TensorBoard, metrics.jsonl."""
