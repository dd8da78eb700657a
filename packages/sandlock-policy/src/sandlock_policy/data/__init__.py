"""Tables without logic: kernel rights, protections, presets."""
