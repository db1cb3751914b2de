"""The user's float model: prepared, restored after a run, its replaced modules and weight hooks."""
