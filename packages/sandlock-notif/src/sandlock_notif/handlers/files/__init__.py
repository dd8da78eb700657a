"""System calls on files, served against the view."""
