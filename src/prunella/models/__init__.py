"""Teachers and students as diffusers pipeline folders: pinned, checked, loaded, saved."""
