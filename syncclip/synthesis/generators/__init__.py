"""Image generators, which turn prompts and seeds into images with a diffusers pipeline or an endpoint."""
