"""The modalities: everything that belongs to one stands in its own room."""
