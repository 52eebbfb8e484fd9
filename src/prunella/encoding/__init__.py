"""The write side of latents: images and captions to shards. A change here runs no training again."""
