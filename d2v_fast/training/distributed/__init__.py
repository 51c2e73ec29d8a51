"""Several processes that train one run: who they are, what they agree on, and the sum of their gradients."""
