"""Small programs in states that CRIU refuses, or that one might think it refuses: `STATES` of `base` lists them."""
