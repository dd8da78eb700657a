"""What lies below the names of the view: one module per kind."""
