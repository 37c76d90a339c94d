"""Files that are written whole or not at all, and the headers of safetensors files."""
