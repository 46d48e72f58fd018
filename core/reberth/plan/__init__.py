"""From a request to a plan: what is checked, chosen and foretold."""
