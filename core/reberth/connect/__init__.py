"""How the host reaches a node: the helper, plain commands, an API, and the only place that starts processes."""
