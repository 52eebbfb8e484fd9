"""The read side of latents: encoders and the dataset of shards that trainings read."""
