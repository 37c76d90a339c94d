"""How fast an exported generator is, in how much memory, and how much its videos flicker."""
