"""The loop of optimizer steps, the tasks that it runs, and the update of the parameters."""
