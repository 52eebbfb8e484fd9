"""The embedded data: rendered scenes, a judge of their captions' claims, the miniature's tokenizer."""
