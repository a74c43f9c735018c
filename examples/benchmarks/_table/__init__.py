"""Parts of `run_table.py`: tasks, methods, one training run, the report."""
