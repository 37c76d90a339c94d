"""From a configuration to objects: networks, objective, run; then `Stylizer` and `stylize`."""
