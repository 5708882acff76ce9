"""Looking at a network: its layers, receptive fields, activations, memory, and a learning rate for it."""
