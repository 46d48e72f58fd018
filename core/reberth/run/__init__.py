"""A run of a plan: phases, rounds, the decision, the journal, the end."""
