"""What the paper compares with: other models behind the same `loss_and_grads`."""
