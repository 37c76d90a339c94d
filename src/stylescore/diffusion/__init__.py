"""The only room that knows diffusers, transformers and peft: models, text, codec and LoRA files."""
