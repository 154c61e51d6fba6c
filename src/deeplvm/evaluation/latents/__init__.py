"""What the latents of a model do."""
