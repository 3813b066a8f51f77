"""The merging benchmark: one LoRA per task, merged once by each method, judged on every task and on all together."""
