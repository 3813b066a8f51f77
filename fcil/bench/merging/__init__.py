"""Benchmark merging: one LoRA expert per task, merged once by each method, evaluated per task and on all jointly."""
