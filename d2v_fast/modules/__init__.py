"""The parts of an encoder: embeddings, positions, attention, blocks and the prediction head."""
