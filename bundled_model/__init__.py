"""Makes the bundled model and its styles, with one command for each stage."""
