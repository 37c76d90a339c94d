"""How the bundled model and its styles are made: one small command per stage."""
