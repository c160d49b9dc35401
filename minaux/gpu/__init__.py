"""The LSTM on the GPU: the equations of lstm.py in CUDA, and what loads them."""
