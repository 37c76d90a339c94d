"""The command line: thin commands over the package, talk on stderr, data on stdout."""
