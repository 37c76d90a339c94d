"""Training a style LoRA from a folder of pictures. Importing this package does not import torch."""
