"""Inspection of a network: layers, receptive fields, activations, memory, learning rate and batch size."""
