"""What times training steps, ours and PyTorch's."""
