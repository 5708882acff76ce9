"""What is done with a trained network's output."""
