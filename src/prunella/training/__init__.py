"""Distillation and fine-tuning: the loop, losses, checkpoints, validation."""
